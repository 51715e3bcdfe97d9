"""The e2e harness with its hosts on a testbed: namespaces for A, B and a client with its probe."""

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
# pylint: disable=wrong-import-position
from harness import Host, Scratch, wait_for  # noqa: E402
import testbed  # noqa: E402

PROBE = os.environ.get("MIGRATE_PROBE", "probe")
ECHO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "echo.py")


class Place(Host):
    """A namespace of a testbed, where a program runs."""

    def __init__(self, scratch, bed, name, program):
        super().__init__(scratch, name)
        self.prefix = bed.inside(name)
        self.program = program


class NetHost(Host):
    """A host that listens on the migrations' link and whose guest is on the tap."""

    def __init__(self, scratch, bed, name):
        super().__init__(scratch, name)
        self.prefix = bed.inside(name)
        self.address = testbed.LINK[name]

    def recv(self, *words, limits=()):
        return super().recv("--insecure", *words, limits=limits)

    def send(self, target, *words, name="web"):
        return super().send(target, "--insecure", *words, name=name)


class Probing:
    """A probe that runs in the client's namespace until it is ended, and then its figures."""

    def __init__(self, client, *words):
        self._process = client.start(*words, "--live")

    def answered(self):
        """How many answers of the first kind were there at the last count."""
        lines = self._process.err.splitlines()
        return int(lines[-1].split()[1]) if lines and lines[-1].endswith("ms") else 0

    def wait_for_answers(self, more=20):
        """Until there are so many more than now."""
        before = self.answered()
        wait_for(lambda: self.answered() >= before + more or not self._process.running(), "answers to the probe")
        if not self._process.running():
            raise AssertionError(f"the probe has ended: {self._process}")

    def end(self):
        self._process.signal(15)
        code = self._process.wait()
        if code != 0:
            raise AssertionError(f"the probe failed: {self._process}")
        return self._process.json()


class OnATestbed(unittest.TestCase):
    """A test case with a testbed `bed` of its own, and `client`, whose program is the probe."""

    def setUp(self):
        why = testbed.problem()
        if why:
            self.skipTest(why)
        self.bed = testbed.Testbed(f"mgt{os.getpid()}")
        self.scratch = Scratch()
        self.hosts = []
        self.addCleanup(self._remove_all)
        self.bed.__enter__()
        self.client = Place(self.scratch, self.bed, "client", PROBE)

    def _remove_all(self):
        for process in self.scratch.processes:
            process.kill()
        # Its guard is a child of this process, too, and the scratch folder's end waits for all of them.
        self.bed.__exit__()
        self.scratch.remove(self.hosts)
