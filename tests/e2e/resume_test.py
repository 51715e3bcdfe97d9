"""A link that is lost before the switchover and comes back: the guest arrives all the same."""

import unittest

import proxy
from broken_link_test import BEFORE_COMMIT, GUEST, MEMORY, SLOW
from harness import CANCELLED, DONE, FAILED, LOST, TwoHosts, wait_for

IN_ROUNDS = ("TheFirstPages", "TheFirstBarrier", "TheFirstAcknowledgement", "ALaterRound")
BRIEF = ("--hello-timeout", "5s", "--ask-window", "1s")


class Resume(TwoHosts):
    def begin(self, where, send=("--verify", "full"), recv=("--once",), reconnect="60s"):
        """A migration that is held at a record."""
        self.source = self.a.run(GUEST, memory=MEMORY)
        wait_for(lambda: self.work(self.a) > 0, "the guest to work")
        self.target = self.b.recv("--json", *recv, *BRIEF)
        self.link = proxy.Proxy(self.target.address)
        self.addCleanup(self.link.close)
        self.gate = self.link.gate(*where)
        self.sender = self.a.send(self.link.address, *SLOW, "--reconnect", reconnect, *send)
        self.gate.wait()

    def cut(self, refuse=False):
        self.link.cut(refuse=refuse)
        self.gate.drop()

    def expect_arrival(self):
        report = self.report(self.sender, "done", DONE)
        self.assertGreaterEqual(report["reconnects"]["count"], 1)
        self.assertEqual(report["integrity"]["full"], "equal")
        self.ended(self.source, DONE)
        self.assert_absent(self.a)
        self.assert_runs(self.b)

    def cut_in_rounds(self, where):
        self.begin(where)
        self.cut()
        self.expect_arrival()
        self.stop(self.b, self.target)
        self.assertGreaterEqual(self.target.json()["reconnects"]["count"], 1)
        self.assert_nothing_left()

    def test_AListenerBringsTheSourceBackToItsSession(self):
        self.begin(BEFORE_COMMIT["ALaterRound"], recv=())
        self.cut()
        self.expect_arrival()
        self.stop(self.b)

    def test_TwoCutsAndAWhileWithoutALink(self):
        self.begin(BEFORE_COMMIT["TheFirstPages"])
        second = self.link.gate(*BEFORE_COMMIT["ALaterRound"])
        self.cut(refuse=True)
        wait_for(lambda: self.a.state() == "reconnecting", "the source to notice")
        self.assert_works(self.a)
        self.link.heal()
        second.wait()
        self.link.cut()
        second.drop()
        self.expect_arrival()
        self.stop(self.b, self.target)

    def assert_works(self, host):
        before = self.work(host)
        wait_for(lambda: self.work(host) > before, "the guest to go on")

    def test_ALinkThatStaysAwayLeavesTheGuestAndFreesTheTarget(self):
        self.begin(BEFORE_COMMIT["ALaterRound"], reconnect="1s")
        self.cut(refuse=True)
        report = self.report(self.sender, "failed", FAILED)
        self.assertEqual(report["error"]["code"], "link-lost")
        self.assertIn("connecting again", report["error"]["message"])
        self.assert_runs(self.a)
        self.ended(self.target, FAILED)
        self.assert_absent(self.b)
        self.stop(self.a, self.source)
        self.assert_nothing_left()

    def test_ASourceThatDiesInTheRoundsIsNotAwaitedForEver(self):
        self.begin(BEFORE_COMMIT["ALaterRound"], reconnect="1s")
        self.source.kill()
        self.gate.drop()
        self.report(self.sender, "lost", LOST)
        self.ended(self.target, FAILED)
        self.assert_absent(self.b)

    def test_ATargetThatDiesInTheRoundsLeavesTheGuest(self):
        self.begin(BEFORE_COMMIT["ALaterRound"], reconnect="1s")
        self.target.kill()
        self.gate.drop()
        report = self.report(self.sender, "failed", FAILED)
        self.assertIn(report["error"]["code"], ("link-lost", "connect-failed"))
        self.assert_runs(self.a)
        self.stop(self.a, self.source)

    def test_ASessionThatDiedUnderAListenerIsNotWaitedFor(self):
        self.begin(BEFORE_COMMIT["ALaterRound"], recv=(), reconnect="600s")
        self.b.kill(self.b.session_pid())
        self.gate.drop()
        report = self.report(self.sender, "failed", FAILED)
        self.assertEqual((report["error"]["code"], report["error"]["side"]),
                         ("not-found", "target"))
        self.assert_runs(self.a)
        self.stop(self.a, self.source)

    def test_ACancelIsHeardWhileTheLinkIsAway(self):
        self.begin(BEFORE_COMMIT["ALaterRound"], reconnect="600s")
        self.cut(refuse=True)
        wait_for(lambda: self.a.state() == "reconnecting", "the source to notice")
        self.a.json("cancel", "web")
        self.report(self.sender, "cancelled", CANCELLED)
        self.assert_runs(self.a)
        self.stop(self.a, self.source)


def _add(name, where):
    setattr(Resume, name, lambda self: self.cut_in_rounds(where))


for _phase in IN_ROUNDS:
    _add(f"test_CutAt{_phase}TheGuestArrivesAllTheSame", BEFORE_COMMIT[_phase])


if __name__ == "__main__":
    unittest.main()
