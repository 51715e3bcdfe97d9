"""A link that is cut or falls silent at each phase: one guest runs, and everybody says so."""

import unittest

import proxy
from harness import DONE, FAILED, PRECOPY, TwoHosts, wait_for
from proxy import SOURCE, TARGET

# Where a migration can be hit before the point of no return: the record on its way.
BEFORE_COMMIT = {
    "Welcome": (TARGET, proxy.WELCOME),
    "Join": (SOURCE, proxy.JOIN),
    "Joined": (TARGET, proxy.JOINED),
    "TheFirstPages": (SOURCE, proxy.PAGES),
    "TheFirstBarrier": (SOURCE, proxy.BARRIER),
    "TheFirstAcknowledgement": (TARGET, proxy.BARRIER_ACK),
    "ALaterRound": (TARGET, proxy.BARRIER_ACK, 2),
    "State": (SOURCE, proxy.SECTION_BEGIN),
    "Offer": (SOURCE, proxy.OFFER),
    "Ready": (TARGET, proxy.READY),
}
AFTER_COMMIT = {
    "Commit": (SOURCE, proxy.COMMIT),
    "Started": (TARGET, proxy.STARTED),
    "Released": (SOURCE, proxy.RELEASED),
}

# 32 MiB that are not zero, at 50 MB/s, against 20 MB/s of writes: several rounds.
GUEST = "writer:rate=20M,set=8M,fill=random"
MEMORY = "32M"
SLOW = PRECOPY + ("--bandwidth", "400Mbit", "--max-downtime", "20ms")
# What a target that is left alone keeps its READY and its questions' answers for.
BRIEF = ("--hello-timeout", "2s", "--lease", "2s", "--ask-window", "1s")
# A silent peer is given up soon, as the tests wait for it.
HASTY = ("--peer-timeout", "1s", "--ask-window", "2s")
HASTY_SEND = HASTY + ("--hello-timeout", "1s")
HASTY_RECV = HASTY + ("--hello-timeout", "1s", "--lease", "2s")


class BrokenLink(TwoHosts):
    def begin(self, where, send=(), recv=BRIEF, paused=False, reconnect="0s"):
        """A migration that is held at a record."""
        self.source = self.a.run(GUEST, memory=MEMORY)
        wait_for(lambda: self.work(self.a) > 0, "the guest to work")
        if paused:
            self.a.json("pause", "web")
        self.target = self.b.recv("--once", "--json", *recv)
        self.link = proxy.Proxy(self.target.address)
        self.addCleanup(self.link.close)
        self.gate = self.link.gate(*where)
        self.sender = self.a.send(self.link.address, *SLOW, "--reconnect", reconnect, *send)
        self.gate.wait()

    def expect_at_source(self, *codes, paused=False):
        report = self.report(self.sender, "failed", FAILED)
        self.assertIn(report["error"]["code"], codes)
        self.assertNotEqual(report["error"]["phase"], "none")
        if paused:
            self.assertEqual(self.a.state(), "paused")
            self.a.json("resume", "web")
        self.assert_runs(self.a)
        self.ended(self.target, FAILED)
        arrival = self.target.out
        if arrival:
            self.assert_error_is_clear(self.target.json()["error"])
        self.assert_absent(self.b)
        self.stop(self.a, self.source)
        self.assert_nothing_left()

    def expect_at_target(self):
        self.report(self.sender, "done", DONE)
        self.ended(self.source, DONE)
        self.assert_absent(self.a)
        self.assert_runs(self.b)
        self.stop(self.b, self.target)
        self.assertEqual(self.target.json()["outcome"], "done")
        self.assert_nothing_left()

    def cut_before_commit(self, where):
        self.begin(where)
        self.link.cut()
        self.gate.drop()
        # A lane on its way may be told first that the session has ended there.
        on_its_way = ("cancelled",) if where == BEFORE_COMMIT["Join"] else ()
        self.expect_at_source("link-lost", *on_its_way)

    def stall_before_commit(self, where):
        self.begin(where, HASTY_SEND, HASTY_RECV)
        self.link.stall()
        self.gate.let_pass()
        self.expect_at_source("timeout", "link-lost")

    def cut_after_commit(self, where):
        self.begin(where, recv=("--ask-window", "5s"))
        self.link.cut()
        self.gate.drop()
        self.expect_at_target()

    def test_CutAtHelloIsNoSession(self):
        self.begin((SOURCE, proxy.HELLO))
        self.link.cut()
        self.gate.drop()
        report = self.report(self.sender, "failed", FAILED)
        self.assertEqual(report["error"]["code"], "link-lost")
        self.assert_runs(self.a)
        # The target waits for its session still.
        self.sender = self.a.send(self.target.address)
        self.expect_at_target()

    def test_StalledAtHelloIsGivenUpInTime(self):
        self.begin((SOURCE, proxy.HELLO), HASTY_SEND)
        report = self.report(self.sender, "failed", FAILED)
        self.assertEqual(report["error"]["code"], "timeout")
        self.assert_runs(self.a)
        self.gate.drop()
        self.sender = self.a.send(self.target.address)
        self.expect_at_target()

    def test_APausedGuestStaysPausedWhenTheLinkIsCutAtReady(self):
        self.begin(BEFORE_COMMIT["Ready"], paused=True)
        self.link.cut()
        self.gate.drop()
        self.expect_at_source("link-lost", paused=True)

    def test_AGuestThatStayedCanBeSentAgain(self):
        self.begin(BEFORE_COMMIT["Ready"])
        self.link.cut()
        self.gate.drop()
        self.report(self.sender, "failed", FAILED)
        self.ended(self.target, FAILED)
        self.target = self.b.recv("--once", "--json")
        self.sender = self.a.send(self.target.address, "--verify", "full")
        self.expect_at_target()

    def test_ALinkThatStallsForAMomentIsNoFailure(self):
        self.begin(BEFORE_COMMIT["Ready"], recv=())
        self.link.stall()
        self.gate.let_pass()
        wait_for(lambda: self.a.state() == "migrating", "the migration")
        self.link.flow()
        self.expect_at_target()

    def test_BytesChangedOnTheWayEndTheSessionBeforeCommit(self):
        # Of a bulk lane: a page's content, so the target finds it by the page's hash.
        self.begin(BEFORE_COMMIT["TheFirstPages"])
        self.gate.change(proxy.flip(-100))
        self.expect_at_source("integrity", "protocol")

    def test_AChangedOfferEndsTheSessionBeforeCommit(self):
        self.begin(BEFORE_COMMIT["Offer"])
        self.gate.change(proxy.flip(-1))
        self.expect_at_source("integrity", "protocol")

    def test_AChangedReadyEndsTheSessionBeforeCommit(self):
        self.begin(BEFORE_COMMIT["Ready"])
        self.gate.change(proxy.flip(-1))
        self.expect_at_source("integrity", "protocol")

    def test_ALostBarrierIsNoticed(self):
        self.begin(BEFORE_COMMIT["TheFirstBarrier"], HASTY_SEND, HASTY_RECV)
        self.gate.drop()
        self.expect_at_source("protocol", "timeout", "integrity")


def _add(name, method, where):
    setattr(BrokenLink, name, lambda self: getattr(self, method)(where))


for _phase, _where in BEFORE_COMMIT.items():
    _add(f"test_CutAt{_phase}LeavesTheGuestAtTheSource", "cut_before_commit", _where)
    _add(f"test_StalledAt{_phase}LeavesTheGuestAtTheSource", "stall_before_commit", _where)
for _phase, _where in AFTER_COMMIT.items():
    _add(f"test_CutAt{_phase}TheGuestRunsAtTheTargetOnceAsked", "cut_after_commit", _where)


if __name__ == "__main__":
    unittest.main()
