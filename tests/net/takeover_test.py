"""A guest that answers echoes moves, and its network follows: switch, bridges, caches, and nobody twice."""

import os
import unittest

from harness import DONE, kvm_problem, wait_for
from net_harness import NET, UNTIL_ALL_HAVE_COME, Asking, Capturing, NetHost, OnATestbed, Probing
from testbed import GUEST_IP, GUEST_IP6, GUEST_MAC, HOSTS

# Somebody else's, or the guest's in another life.
OLD_MAC = "52:54:00:78:00:66"
# Even, to end where it began.
MOVES = int(os.environ.get("MIGRATE_NET_MOVES", "10"))


class OfAResponder(OnATestbed):
    def setUp(self):
        why = kvm_problem()
        if why:
            self.skipTest(why)
        super().setUp()
        self.a, self.b = (NetHost(self.scratch, self.bed, name) for name in HOSTS)
        self.hosts += [self.a, self.b]

    def other(self, host):
        return self.b if host is self.a else self.a

    def start(self):
        """The guest, on A, and everybody has learned that."""
        self.process = self.a.run("responder", "--net", NET)
        self.probe().end()
        self.assertEqual(self.bed.switch_port(), "a")

    def probe(self, *words):
        """A probe that has its answers."""
        probing = Probing(self.client, GUEST_IP, GUEST_IP6, *words)
        probing.wait_for_answers()
        return probing

    def move(self, here, *recv_words, send_words=()):
        """To the other host; the client asks nothing unless it did before."""
        there = self.other(here)
        arrival = there.recv("--once", "--json", "--net", "tap=guest", *recv_words)
        send = here.send(arrival.address, *send_words)
        self.assertEqual(send.wait(), DONE, f"{send}\n{arrival}")
        self.assertEqual(self.process.wait(), DONE, self.process)
        self.process = arrival
        self.assert_runs(there)
        return send.json()

    def assert_runs(self, host):
        self.assertEqual(host.state(), "running")
        before = host.stats()["uptime_ms"]
        wait_for(lambda: host.stats()["uptime_ms"] > before, "the guest to go on")

    def stop(self, host):
        self.assertEqual(host.start("stop", "web").wait(), DONE)
        self.assertEqual(self.process.wait(), DONE, self.process)

    def assert_answers_at_once(self):
        """With what the client knows and the switch has learned, nothing is lost."""
        figures = self.probe("--rate", 100, *UNTIL_ALL_HAVE_COME).end()["kinds"]
        for kind, found in figures.items():
            self.assertEqual(found["lost"], 0, f"{kind}: {found}")


class Takeover(OfAResponder):
    def test_TheSwitchAndTheHostsBridgesPointToTheTarget(self):
        self.start()
        self.assertEqual(self.bed.switch_port(place="a"), "guest")
        for here in (self.a, self.b):
            there = self.other(here)
            self.move(here)
            name = os.path.basename(there.folder)
            wait_for(lambda name=name: self.bed.switch_port() == name, "the switch to learn")
            wait_for(lambda name=name: self.bed.switch_port(place=name) == "guest", "the target's bridge to learn")
            left = os.path.basename(here.folder)
            wait_for(lambda left=left: self.bed.switch_port(place=left) == "uplink", "the source's bridge to learn")
            self.assert_answers_at_once()
        self.stop(self.a)

    def test_WithoutAnAnnouncementNobodyKnows(self):
        """What the tests beside this one see is the announcement's doing."""
        self.start()
        for address in (GUEST_IP, GUEST_IP6):
            # The client does not ask again where the guest is.
            self.bed.client_believes(address, GUEST_MAC, "permanent")
        self.move(self.a, "--no-announce")
        self.assertEqual(self.bed.switch_port(), "a")
        probing = Probing(self.client, GUEST_IP, GUEST_IP6, "--duration", "300ms", "--linger", "10ms")
        for kind, figures in probing.wait()["kinds"].items():
            self.assertEqual(figures["answered"], 0, kind)
        self.assertEqual(self.bed.switch_port(), "a")
        # By hand it can be made up for.
        announced = self.b.start("announce", "lan", "--mac", GUEST_MAC, "--ip", GUEST_IP)
        self.assertEqual(announced.wait(), DONE, announced)
        wait_for(lambda: self.bed.switch_port() == "b", "the switch to learn")
        self.assert_answers_at_once()
        self.stop(self.b)

    def test_CachesOfAClientThatOnlyListensAreMended(self):
        self.start()
        # The silent one first: announcements are repeated for a while.
        for announces, here, there in ((False, self.a, self.b), (True, self.b, self.a)):
            with self.subTest(announces=announces):
                for address in (GUEST_IP, GUEST_IP6):
                    self.bed.client_believes(address, OLD_MAC)
                self.move(here, *([] if announces else ["--no-announce"]))
                for address in (GUEST_IP, GUEST_IP6):
                    if announces:
                        wait_for(lambda address=address: self.bed.client_knows(address) == GUEST_MAC,
                                 f"the client to know who {address} is")
                    else:
                        self.assertEqual(self.bed.client_knows(address), OLD_MAC)
        self.stop(there)

    def test_NothingIsAnsweredTwiceNorByTheSourceOnceTheTargetRuns(self):
        self.start()
        captures = [Capturing(self.scratch, self.bed, host) for host in HOSTS]
        # No more than a guest can answer on a busy machine: what it had no time for is lost, too.
        probing = self.probe("--rate", 250)
        self.move(self.a)
        probing.wait_for_answers()
        report = probing.end()
        at_a, at_b = (capture.end() for capture in captures)
        self.assertTrue(at_a and at_b)
        # One clock for both, and what leaves B first is its announcement or an answer, after COMMIT.
        self.assertLess(max(frame[0] for frame in at_a), min(frame[0] for frame in at_b), "two guests ran")
        for kind, figures in report["kinds"].items():
            with self.subTest(kind):
                answered = [frame[2] for frame in at_a + at_b if frame[1] == kind]
                self.assertEqual(len(answered), len(set(answered)), "two guests answered")
                self.assertEqual(len(answered), figures["answered"])
                self.assertEqual(figures["duplicated"], 0, "two guests answered")
                # Whatever is lost was lost while nobody answered.
                self.assertLessEqual(figures["lost"], figures["gap_ms"] * report["rate_hz"] / 1000 + 1)
        self.stop(self.b)

    def test_WhatFollowsIsWhatCameToTheGuestAloneAndOnce(self):
        """All hear a broadcast at both hosts: were it to follow, the guest would get it twice."""
        self.start()
        captures = [Capturing(self.scratch, self.bed, host) for host in HOSTS]
        asking = Asking(self.scratch, self.bed)
        probing = self.probe()
        self.move(self.a, send_words=("--forward", "1s"))
        probing.wait_for_answers()
        report = probing.end()
        asked = asking.end()
        at_a, at_b = (capture.end() for capture in captures)
        answered = [frame[2] for frame in at_a + at_b if frame[1] == "arp" and frame[2] in asked]
        self.assertEqual(len(answered), len(set(answered)), "a broadcast was answered twice")
        for at in (at_a, at_b):
            self.assertTrue([frame for frame in at if frame[1] == "arp" and frame[2] in asked])
        for kind, figures in report["kinds"].items():
            echoes = [frame[2] for frame in at_a + at_b if frame[1] == kind]
            self.assertEqual(len(echoes), len(set(echoes)), f"two guests answered: {kind}")
            self.assertEqual(figures["duplicated"], 0, f"two guests answered: {kind}")
        self.stop(self.b)


class BackAndForth(OfAResponder):
    def test_ManyMovesUnderTheProbeLeaveNothing(self):
        """MIGRATE_NET_MOVES of them, between listeners that stay."""
        listeners = {host: host.recv("--net", "tap=guest") for host in (self.a, self.b)}
        first = self.a.run("responder", "--net", NET)
        probing = self.probe()
        here, before = self.a, None
        for _ in range(MOVES):
            there = self.other(here)
            send = here.send(listeners[there].address)
            self.assertEqual(send.wait(), DONE, f"{send}\n{listeners[there]}")
            wait_for(lambda here=here: here.state() is None, "the source's socket to go")
            self.assert_runs(there)
            probing.wait_for_answers()
            wait_for(lambda there=there: self.bed.switch_port() == os.path.basename(there.folder),
                     "the switch to learn")
            here = there
            # After the first moves, when what is made once has been made.
            if before is None and here is self.a:
                before = self.held(listeners)
        report = probing.end()
        self.assertEqual(first.wait(), DONE, first)
        for kind, figures in report["kinds"].items():
            self.assertEqual(figures["duplicated"], 0, f"two guests answered: {kind}")
        if here is self.a:
            wait_for(lambda: self.held(listeners) == before, f"no more to be held than {before}")
        self.assert_answers_at_once()
        self.assertEqual(here.start("stop", "web").wait(), DONE)
        for listener in listeners.values():
            listener.signal(15)
            self.assertEqual(listener.wait(), DONE, listener)
        for host in (self.a, self.b):
            wait_for(lambda host=host: not host.pids(), f"the processes of {host.folder} to end")

    def held(self, listeners):
        """Of each listener: threads and descriptors; of each host: processes and sockets in its namespace."""
        found = []
        for host, listener in listeners.items():
            found.append((len(os.listdir(f"/proc/{listener.pid}/task")), len(os.listdir(f"/proc/{listener.pid}/fd")),
                          len(host.pids()), *self.sockets(listener.pid)))
        return found

    def sockets(self, pid):
        """TCP sockets that are not closed (TIME_WAIT is the kernel's), and packet sockets."""
        with open(f"/proc/{pid}/net/tcp", encoding="ascii") as file:
            tcp = [line.split()[3] for line in file.readlines()[1:]]
        with open(f"/proc/{pid}/net/packet", encoding="ascii") as file:
            packet = len(file.readlines()) - 1
        return len([state for state in tcp if state != "06"]), packet


if __name__ == "__main__":
    unittest.main()
