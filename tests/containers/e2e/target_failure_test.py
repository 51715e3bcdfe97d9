"""Whatever fails at the target: the guest goes on at its source, or it runs at the target; never both, and never with
wrong memory."""

import os
import sys
import unittest

# It says where the others are. pylint: disable=wrong-import-order
from migrations import FAILED, wait_for
from broken_link_test import BEFORE_COMMIT
from harness import DONE, LOST, UNCERTAIN
from held_migrations import BRIEF, HeldMigrations
from hosts import CRIU
import proxy

_KILLER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "rig", "criu_killer.py")
# Hooks of a restore at which nothing has run: all but the last, which CRIU calls when it has let go of the tree.
_HOOKS = {"PreRestore": "pre-restore", "PostRestore": "post-restore", "PreResume": "pre-resume"}


class TargetFailures(HeldMigrations):
    def killer(self, hook):
        """The words for a CRIU that does not get beyond that hook."""
        path = self.scratch.new_file("criu")
        with open(path, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\nexec {sys.executable} -B {_KILLER} {CRIU} {hook} "$@"\n')
        os.chmod(path, 0o755)
        return ("--criu", path)

    def kill_criu_at(self, hook):
        self.begin(None, criu=self.killer(hook))
        error = self.refusal(self.sender, codes=(FAILED,))
        self.assertEqual(error["side"], "target", error)
        self.ended(self.target, FAILED)
        self.expect_at_source()

    def test_ACriuKilledWhileItMakesNamespacesLeavesTheGuest(self):
        root = self.bed.container_root()
        guest = self.guest("--kind", "anon,shared", "--size", 16, container=root, tmpfs="/tmp")
        for hook in ("setup-namespaces", "post-setup-namespaces"):
            target = self.recv(*BRIEF, "--container-root", root, criu=self.killer(hook))
            self.refusal(self.send(guest, target.address, "--reconnect", "0s"), codes=(FAILED,))
            self.ended(target, FAILED)
            self.assert_goes_on(guest)
            self.assert_empty(self.b)
        self.move(guest, self.b, receiving=("--container-root", root))
        self.assert_goes_on(guest)

    def test_ACriuThatEndsWhenTheTreeRunsLeavesOne(self):
        self.begin(None, criu=self.killer("post-resume"))
        code = self.sender.wait()
        self.assertIn(code, (DONE, FAILED, LOST), self.sender)
        if code != LOST:
            self.expect_one()
            return
        # Told so, and it runs nowhere: it may have had effects at the target.
        self.assert_nobody_runs()

    def assert_nobody_runs(self):
        for host in (self.a, self.b):
            self.assertFalse(self.runs_at(self.moving, host), host.name)

    def kill_after_commit(self, sender, record):
        """Nobody is left who knows whether it ran: it stands at its source until somebody says."""
        self.begin((sender, record), send=("--ask-window", "1s"))
        self.target.kill()
        self.gate.drop()
        self.link.cut(refuse=True)
        report = wait_for(lambda: self.sender.out.endswith("\n") and self.sender.json(), "the report of send")
        self.assertEqual(report["outcome"], "uncertain", report)
        self.assertIn("migrate resolve", report["error"]["remedy"])
        self.assert_empty(self.b)
        self.assertFalse(self.runs_at(self.moving, self.a), "it runs on without anybody's word")
        self.a.json("resolve", f"pid-{self.moving.pid}", "--resume", "--force")
        self.assertEqual(self.sender.wait(), UNCERTAIN, self.sender)
        self.expect_at_source()

    def test_KillingTheTargetAtCommitLeavesTheGuestStandingUntilItIsResolved(self):
        self.kill_after_commit(proxy.SOURCE, proxy.COMMIT)

    def test_KillingTheTargetOnceItHasStartedLeavesItsGuestAndNeverTwo(self):
        self.begin((proxy.TARGET, proxy.STARTED), send=("--ask-window", "1s"))
        wait_for(lambda: self.runs_at(self.moving, self.b), "it to run at the target")
        self.assertFalse(self.runs_at(self.moving, self.a), "it runs twice")
        self.target.kill()
        self.gate.drop()
        self.link.cut(refuse=True)
        report = wait_for(lambda: self.sender.out.endswith("\n") and self.sender.json(), "the report of send")
        self.assertEqual(report["outcome"], "uncertain", report)
        # Its memory was all there: the filler brings it the rest, and it goes on without the command.
        self.assertTrue(self.runs_at(self.moving, self.b))
        self.a.json("resolve", f"pid-{self.moving.pid}", "--release", "--force")
        self.sender.wait()
        self.assert_empty(self.a)
        self.moving.host = self.b
        self.assert_goes_on(self.moving)

    def test_ANumberThatIsTakenMeanwhileFailsAndTheGuestGoesOn(self):
        self.begin(BEFORE_COMMIT["ALaterRound"])
        taken = self.b.start_guest("sleep", "1000")
        self.assertEqual(taken, self.moving.pid)
        self.gate.let_pass()
        self.refusal(self.sender, str(taken), codes=(FAILED,))
        self.ended(self.target, FAILED)
        self.assert_goes_on(self.moving)
        self.assertEqual(self.b.all_pids(), [taken])

    def test_ATargetWhoseFolderFillsUpMeanwhileGivesTheGuestBack(self):
        os.makedirs(self.b.folder, mode=0o700)
        self.b.run_in("mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", self.b.folder)
        self.begin(BEFORE_COMMIT["ALaterRound"])
        self.b.run_in("sh", "-c", f"cat /dev/zero > {self.b.folder}/full || :")
        self.gate.let_pass()
        self.refusal(self.sender, codes=(FAILED,))
        self.ended(self.target, FAILED)
        self.b.run_in("rm", f"{self.b.folder}/full")
        self.expect_at_source()

    def stall_before_commit(self, where):
        """A link that says nothing any more, and breaks nothing."""
        self.begin(where, recv=(*BRIEF, "--peer-timeout", "1s"), send=("--peer-timeout", "1s", "--ask-window", "1s"))
        self.link.stall()
        self.refusal(self.sender, codes=(FAILED,))
        self.ended(self.target, FAILED)
        self.link.cut()
        self.gate.drop()
        self.expect_at_source()

    def test_ASilentLinkInTheRoundsLeavesTheGuest(self):
        self.stall_before_commit(BEFORE_COMMIT["ALaterRound"])

    def test_ASilentLinkWhileStateIsSentLeavesTheGuest(self):
        self.stall_before_commit(BEFORE_COMMIT["State"])

    def test_ASilentLinkAtReadyLeavesTheGuest(self):
        self.stall_before_commit(BEFORE_COMMIT["Ready"])


for _name, _hook in _HOOKS.items():
    setattr(TargetFailures, f"test_ACriuKilledAt{_name}LeavesTheGuest",
            lambda self, hook=_hook: self.kill_criu_at(hook))


if __name__ == "__main__":
    unittest.main()
