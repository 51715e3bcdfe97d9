"""A test case with two hosts of containers."""

import unittest

from guests import Client, Guest
from hosts import PATIENCE_S, ContainerBed, problem, testbed, wait_for


class TwoContainerHosts(unittest.TestCase):
    maxDiff = None
    network = False

    def setUp(self):
        why = problem() or (self.network and testbed.problem())
        if why:
            self.skipTest(why)
        self.bed = ContainerBed(self.network)
        self.addCleanup(self.bed.close)
        self.a, self.b, self.scratch = self.bed.a, self.bed.b, self.bed.scratch

    def guest(self, *words, **options):
        return Guest(self.a, *words, **options)

    def client(self, *words):
        return Client(self.bed, *words)

    def assert_memory_right(self, guest, patience=PATIENCE_S):
        for role, found in guest.verify(patience).items():
            self.assertEqual((found["verify_errors"], found["bad"], found["link_errors"]), (0, "", 0), (role, found))

    def assert_goes_on(self, guest):
        before = guest.loops()
        wait_for(lambda: guest.loops() > before + 20, "the guest to go on")
        self.assert_memory_right(guest)
