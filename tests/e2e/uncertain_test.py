"""A link lost after COMMIT: the source keeps its guest paused until the target, or an operator, has
spoken."""

import signal
import unittest

import proxy
from broken_link_test import GUEST, MEMORY, SLOW
from harness import DONE, FAILED, UNCERTAIN, TwoHosts, wait_for
from proxy import SOURCE, TARGET

COMMIT = (SOURCE, proxy.COMMIT)
STARTED = (TARGET, proxy.STARTED)


class Uncertain(TwoHosts):
    def begin(self, where, recv=("--once", "--ask-window", "60s"), send=("--ask-window", "300ms")):
        self.source = self.a.run(GUEST, memory=MEMORY)
        self.target = self.b.recv(*recv)
        self.link = proxy.Proxy(self.target.address)
        self.addCleanup(self.link.close)
        gate = self.link.gate(*where)
        self.sender = self.a.send(self.link.address, *SLOW, *send)
        gate.wait()
        self.link.cut(refuse=True)
        gate.drop()

    def begin_uncertain(self, *arguments, **options):
        self.begin(*arguments, **options)
        report = self.report(self.sender, "uncertain", UNCERTAIN)
        self.assertEqual(report["error"]["code"], "uncertain")
        self.assertIn("migrate resolve", report["error"]["remedy"])
        self.assertEqual(self.a.state(), "uncertain")
        refused = self.a.json("cancel", "web", code=UNCERTAIN)["error"]
        self.assertEqual(refused["code"], "uncertain")
        self.assertIn("migrate resolve", refused["remedy"])
        self.assert_stands_still()

    def assert_stands_still(self):
        """The source's copy: it may not run while another one may."""
        before = self.work(self.a)
        for _ in range(3):
            self.assertEqual(self.a.json("status", "web")["state"], "uncertain")
        self.assertEqual(self.work(self.a), before, "it ran: there may be two guests")

    def resolve(self, *how, code=DONE):
        answer = self.a.json("resolve", "web", *how, code=code)
        if code != DONE:
            self.assert_error_is_clear(answer["error"])
        return answer

    def test_ResumeIsRefusedOnceTheTargetHasStarted(self):
        self.begin_uncertain(STARTED)
        self.assert_runs(self.b)
        self.link.heal()
        # It asks the target first, learns that the guest runs there, and lets its own go.
        self.resolve("--resume", "--force", code=UNCERTAIN)
        self.ended(self.source, DONE)
        self.assert_absent(self.a)
        self.assert_runs(self.b)
        self.stop(self.b, self.target)
        self.assert_nothing_left()

    def test_WithoutAnAnswerResumeNeedsForce(self):
        # The target's lease runs out: the guest runs nowhere.
        self.begin_uncertain(COMMIT, recv=("--once", "--lease", "3s", "--ask-window", "300ms"))
        self.ended(self.target, FAILED)
        self.resolve("--resume", code=UNCERTAIN)
        self.assert_stands_still()
        # Not before the lease has surely run out, by the source's clock too.
        wait_for(lambda: self.a.start("resolve", "web", "--resume", "--force").wait() == DONE,
                 "the lease to run out")
        self.assert_runs(self.a)
        self.stop(self.a, self.source)
        self.assert_nothing_left()

    def test_ResumeIsGrantedByATargetThatHasDiscarded(self):
        self.begin_uncertain(COMMIT, recv=("--once", "--lease", "3s", "--ask-window", "60s"))
        wait_for(lambda: not self.b.answers(), "the target to discard")
        self.link.heal()
        self.resolve("--resume")
        self.assert_runs(self.a)
        # It would answer questions for its ask window.
        self.target.signal(signal.SIGTERM)
        self.ended(self.target, FAILED)
        self.stop(self.a, self.source)
        self.assert_nothing_left()

    def test_ReleaseGivesTheSourcesCopyUp(self):
        self.begin_uncertain(STARTED)
        self.link.heal()
        self.resolve("--release")
        self.ended(self.source, DONE)
        self.assert_absent(self.a)
        self.assert_runs(self.b)
        self.stop(self.b, self.target)

    def test_ReleaseWithoutAnAnswerNeedsForce(self):
        self.begin_uncertain(STARTED)
        self.resolve("--release", code=UNCERTAIN)
        self.assertEqual(self.a.state(), "uncertain")
        self.resolve("--release", "--force")
        self.ended(self.source, DONE)
        self.assert_runs(self.b)

    def test_NothingElseTouchesAnUncertainGuest(self):
        self.begin_uncertain(STARTED)
        for verb in ("resume", "pause", "stop"):
            self.assert_error_is_clear(self.a.json(verb, "web", code=UNCERTAIN)["error"])
        self.assert_error_is_clear(self.a.json("cancel", "web", code=UNCERTAIN)["error"])
        again = self.report(self.a.send(self.link.address), "failed", UNCERTAIN)
        self.assertEqual(again["error"]["code"], "uncertain")
        self.assertEqual(self.a.state(), "uncertain")
        self.assertTrue(self.source.running())

    def test_ALinkThatComesBackInTheAskWindowIsNoDoubt(self):
        for where in (COMMIT, STARTED):
            with self.subTest(record=where[1]):
                self.begin(where, send=("--ask-window", "30s"))
                wait_for(lambda: self.a.state() == "reconnecting", "the source to ask")
                self.link.heal()
                self.report(self.sender, "done", DONE)
                self.ended(self.source, DONE)
                self.assert_runs(self.b)
                self.stop(self.b, self.target)
        self.assert_nothing_left()

    def test_ResolveIsForUncertainGuestsOnly(self):
        source = self.a.run("idle", memory="16M")
        self.assert_error_is_clear(self.a.json("resolve", "web", "--resume", code=2)["error"])
        self.assertEqual(self.a.state(), "running")
        self.stop(self.a, source)


if __name__ == "__main__":
    unittest.main()
