"""Processes that are killed or told to end at each phase: never two guests, and none lost but with
the process that had it."""

import signal
import unittest

import proxy
from broken_link_test import BEFORE_COMMIT, BRIEF, GUEST, MEMORY, SLOW
from harness import CANCELLED, DONE, FAILED, LOST, UNCERTAIN, TwoHosts, wait_for
from proxy import SOURCE, TARGET

PHASES = ("Welcome", "TheFirstPages", "ALaterRound", "State", "Offer", "Ready")
COMMIT = (SOURCE, proxy.COMMIT)
STARTED = (TARGET, proxy.STARTED)


class PeerDeath(TwoHosts):
    def begin(self, where, recv=("--once", *BRIEF), send=(), reconnect="0s"):
        """A migration that is held at a record."""
        self.source = self.a.run(GUEST, memory=MEMORY)
        wait_for(lambda: self.work(self.a) > 0, "the guest to work")
        self.target = self.b.recv("--json", *recv)
        self.link = proxy.Proxy(self.target.address)
        self.addCleanup(self.link.close)
        self.gate = self.link.gate(*where)
        self.sender = self.a.send(self.link.address, *SLOW, "--reconnect", reconnect, *send)
        self.gate.wait()

    def end_listener(self):
        self.target.signal(signal.SIGTERM)
        self.ended(self.target, DONE)

    def expect_guest_at_source(self):
        self.assert_runs(self.a)
        self.assert_absent(self.b)
        self.stop(self.a, self.source)

    def expect_guest_at_target(self):
        self.assert_absent(self.a)
        self.assert_runs(self.b)
        self.stop(self.b, self.target)
        self.assert_nothing_left(self.b)

    # kill -9

    def kill_source(self, where):
        """Its guest goes with it, and the target must not keep half of one."""
        self.begin(where)
        self.source.kill()
        self.gate.drop()
        # In the switchover `send` cannot know whether COMMIT had been sent.
        if where in (BEFORE_COMMIT[phase] for phase in ("State", "Offer", "Ready")):
            self.report(self.sender, "uncertain", UNCERTAIN)
        else:
            self.report(self.sender, "lost", LOST)
        self.ended(self.target, FAILED)
        self.assertEqual(self.a.json("ps")["guests"], [])
        # `ps` has cleared what the killed process left.
        self.assert_nothing_left()

    def kill_target(self, where):
        self.begin(where)
        self.target.kill()
        self.gate.drop()
        report = self.report(self.sender, "failed", FAILED)
        self.assertIn(report["error"]["code"], ("link-lost", "connect-failed"))
        self.expect_guest_at_source()
        self.assert_nothing_left(self.a)
        # The host is as good as new.
        self.source = self.a.run(GUEST, memory=MEMORY)
        self.target = self.b.recv("--once")
        self.report(self.a.send(self.target.address), "done", DONE)
        self.expect_guest_at_target()

    def test_KillingTheSourceBeforeCommitArrivesEndsTheGuest(self):
        self.begin(COMMIT)
        self.source.kill()
        self.gate.drop()
        self.report(self.sender, "uncertain", UNCERTAIN)
        # Its lease runs out.
        self.ended(self.target, FAILED)
        self.assert_absent(self.b)

    def test_KillingTheSourceOnceCommitIsOnItsWayLeavesTheGuestAtTheTarget(self):
        self.begin(COMMIT)
        self.source.kill()
        self.gate.let_pass()
        wait_for(lambda: self.b.state() == "running", "the guest to start")
        self.report(self.sender, "uncertain", UNCERTAIN)
        self.expect_guest_at_target()

    def test_KillingTheSourceAtStartedLeavesTheGuestAtTheTarget(self):
        self.begin(STARTED)
        self.source.kill()
        self.gate.drop()
        self.report(self.sender, "uncertain", UNCERTAIN)
        self.expect_guest_at_target()

    def test_KillingTheTargetBeforeItHasCommitGivesTheGuestBack(self):
        # The listener answers from the dead process's journal.
        self.begin(COMMIT, recv=BRIEF)
        pid = self.b.session_pid()
        self.b.kill(pid)
        self.gate.drop()
        self.report(self.sender, "failed", FAILED)
        self.expect_guest_at_source()
        self.end_listener()

    def test_KillingTheTargetOnceItRunsTheGuestIsReportedAsLost(self):
        self.begin(STARTED, recv=BRIEF)
        self.b.kill(self.b.session_pid())
        self.gate.drop()
        report = self.report(self.sender, "lost", LOST)
        self.assertEqual(report["error"]["code"], "guest-lost")
        self.assert_absent(self.a)
        self.assertEqual(self.source.wait(), LOST, self.source)
        self.end_listener()

    def test_KillingTheListenerLeavesTheSessionAlone(self):
        self.begin(BEFORE_COMMIT["ALaterRound"], recv=BRIEF)
        self.target.kill()
        self.gate.let_pass()
        self.report(self.sender, "done", DONE)
        self.ended(self.source, DONE)
        self.assert_runs(self.b)
        self.stop(self.b)

    # Told to end

    def terminate_source(self, where):
        self.begin(where)
        self.source.signal(signal.SIGTERM)
        self.report(self.sender, "cancelled", CANCELLED)
        self.ended(self.source, DONE)
        self.gate.drop()
        self.ended(self.target, FAILED)
        self.assert_nothing_left()

    def terminate_target(self, where):
        self.begin(where)
        self.target.signal(signal.SIGTERM)
        self.ended(self.target, CANCELLED)
        self.gate.let_pass()
        self.report(self.sender, "failed", FAILED)
        self.expect_guest_at_source()
        self.assert_nothing_left()

    def terminate_send(self, where):
        self.begin(where)
        self.sender.signal(signal.SIGTERM)
        self.report(self.sender, "cancelled", CANCELLED)
        self.gate.drop()
        self.ended(self.target, FAILED)
        self.expect_guest_at_source()
        self.assert_nothing_left()

    def kill_send(self, where):
        """Only a follower has gone."""
        # A READY that is held lasts for as long as another follower takes to start.
        self.begin(where, recv=("--once", "--lease", "60s"))
        self.sender.kill()
        follower = self.a.start("status", "web", "--follow", "--json")
        wait_for(lambda: self.a.state() == "migrating", "the migration to go on")
        self.gate.let_pass()
        # It may have come too late to follow.
        self.assertIn(follower.wait(), (DONE, FAILED), follower)
        self.ended(self.source, DONE)
        self.expect_guest_at_target()

    def test_SigtermToTheSourceAfterCommitWaitsForTheHandover(self):
        self.begin(COMMIT)
        self.source.signal(signal.SIGTERM)
        self.gate.let_pass()
        self.report(self.sender, "done", DONE)
        self.ended(self.source, DONE)
        self.expect_guest_at_target()

    def test_SigtermToSendAfterCommitIsRefused(self):
        self.begin(COMMIT)
        self.sender.signal(signal.SIGTERM)
        wait_for(lambda: "not cancelled" in self.sender.err, "the refusal")
        self.gate.let_pass()
        self.report(self.sender, "done", DONE)
        self.expect_guest_at_target()

    def test_CancelAfterCommitIsRefused(self):
        self.begin(COMMIT)
        error = self.a.json("cancel", "web", code=FAILED)["error"]
        self.assertEqual(error["code"], "busy")
        self.assertTrue(error["remedy"])
        self.gate.let_pass()
        self.report(self.sender, "done", DONE)
        self.expect_guest_at_target()

    def test_SigtermToTheTargetAtCommitGivesTheGuestBack(self):
        self.begin(COMMIT)
        self.target.signal(signal.SIGTERM)
        # READY is withdrawn before COMMIT comes; who asks is told so.
        wait_for(lambda: not self.b.answers(), "the target to discard")
        self.gate.let_pass()
        self.report(self.sender, "failed", FAILED)
        self.ended(self.target, CANCELLED)
        self.expect_guest_at_source()


def _add(name, method, where):
    setattr(PeerDeath, name, lambda self: getattr(self, method)(where))


for _phase in PHASES:
    _add(f"test_KillTheSourceAt{_phase}", "kill_source", BEFORE_COMMIT[_phase])
    _add(f"test_KillTheTargetAt{_phase}LeavesTheGuest", "kill_target", BEFORE_COMMIT[_phase])
    _add(f"test_SigtermToTheSourceAt{_phase}CancelsAndStops", "terminate_source",
         BEFORE_COMMIT[_phase])
    _add(f"test_SigtermToTheTargetAt{_phase}LeavesTheGuest", "terminate_target",
         BEFORE_COMMIT[_phase])
    _add(f"test_SigtermToSendAt{_phase}Cancels", "terminate_send", BEFORE_COMMIT[_phase])
for _phase in ("Welcome", "ALaterRound", "Ready"):
    _add(f"test_KillingSendAt{_phase}EndsNothing", "kill_send", BEFORE_COMMIT[_phase])


if __name__ == "__main__":
    unittest.main()
