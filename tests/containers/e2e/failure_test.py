"""Whatever fails, one of the two hosts has the guest: it goes on at the source as if nothing had been, or it runs at
the target; never both, and never with wrong memory."""

import os
import signal
import unittest

# It says where the others are. pylint: disable=wrong-import-order
from migrations import DONE, FAILED, wait_for
from broken_link_test import AFTER_COMMIT, BEFORE_COMMIT
from held_migrations import HeldMigrations

_PHASES = ("Welcome", "TheFirstPages", "ALaterRound", "State", "Offer", "Ready")


class Failures(HeldMigrations):
    def cut_before_commit(self, where):
        self.begin(where)
        self.link.cut()
        self.gate.drop()
        self.refusal(self.sender, codes=(FAILED,))
        self.ended(self.target, FAILED)
        self.expect_at_source()

    def kill_target(self, where):
        self.begin(where)
        self.target.kill()
        self.gate.drop()
        self.refusal(self.sender, codes=(FAILED,))
        self.expect_at_source()

    def kill_send(self, where):
        """Frozen or not: the tree goes on, with nobody to thaw it by hand."""
        self.begin(where)
        self.sender.kill()
        self.sender.wait()
        self.gate.drop()
        self.ended(self.target, FAILED)
        self.expect_at_source()

    def cut_after_commit(self, where):
        self.begin(where, recv=("--ask-window", "5s"))
        self.link.cut()
        self.gate.drop()
        self.sender.wait()
        self.expect_one()

    def kill_criu(self, host, where):
        """It has tasks frozen, or half restored: they are not left so."""
        self.begin(where)
        self.kill_all_criu(host)
        self.gate.let_pass()
        self.refusal(self.sender, codes=(FAILED,))
        self.ended(self.target, FAILED)
        self.expect_at_source()

    def kill_criu_that_may_be_done(self, where):
        """The source's, when its images are complete: what it knew may be at the target already."""
        self.begin(where)
        self.kill_all_criu(self.a)
        self.gate.let_pass()
        if self.sender.wait() == DONE:
            self.moving.moved_to(self.b)
            self.assert_empty(self.a)
            self.assert_goes_on(self.moving)
            return
        self.refusal(self.sender, codes=(FAILED,))
        self.ended(self.target, FAILED)
        self.expect_at_source()

    def kill_all_criu(self, host):
        found = wait_for(lambda: self.criu_pids(host), "CRIU")
        for pid in found:
            # One may end with another.
            if host.alive(pid):
                host.signal(pid, signal.SIGKILL)

    @staticmethod
    def criu_pids(host):
        found = []
        for pid in host.all_pids():
            try:
                with open(host.proc(pid, "cmdline"), "rb") as file:
                    if b"swrk" in file.read().split(b"\0"):
                        found.append(pid)
            except OSError:
                continue
        return found

    def test_KillingCriuAtTheSourceOnceTheTargetIsReadyLeavesOneGuest(self):
        self.kill_criu_that_may_be_done(BEFORE_COMMIT["Ready"])

    def test_KillingCriuAtTheTargetOnceItIsReadyLeavesTheGuest(self):
        self.kill_criu(self.b, BEFORE_COMMIT["Ready"])

    def test_KillingCriuAtTheSourceWhileItsImagesAreSentLeavesOneGuest(self):
        self.kill_criu_that_may_be_done(BEFORE_COMMIT["State"])

    def fill_up(self, host):
        """Its runtime folder, where images stand, takes next to nothing."""
        os.makedirs(host.folder, mode=0o700)
        host.run_in("mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", host.folder)

    def fails_without_room(self, host):
        guest = self.guest("--size", 16)
        self.fill_up(host)
        target = self.recv()
        self.refusal(self.send(guest, target.address))
        self.assert_goes_on(guest)
        self.ended(target, FAILED)
        self.assert_empty(self.b)

    def test_ASourceWithoutRoomForImagesKeepsItsGuest(self):
        self.fails_without_room(self.a)

    def test_ATargetWithoutRoomForImagesGivesTheGuestBack(self):
        self.fails_without_room(self.b)

    # What is not as it should be before anything moves.

    def refused(self, sending=(), receiving=(), wanted=(), send_criu=None, recv_criu=None):
        guest = self.guest("--size", 16)
        target = self.recv(*receiving, criu=recv_criu)
        self.refusal(self.send(guest, target.address, *sending, criu=send_criu), *wanted)
        self.assert_goes_on(guest)

    def old_criu(self):
        """One that says so in each of its ways."""
        path = self.scratch.new_file("criu")
        with open(path, "w", encoding="utf-8") as file:
            file.write('#!/bin/sh\n[ "$1" != --version ] || { echo "Version: 3.17.1"; exit 0; }\n'
                       'echo "criu: this is version 3.17.1" >&2\nexit 1\n')
        os.chmod(path, 0o755)
        return path

    def test_ASourceWithoutCriuSaysSo(self):
        self.refused(send_criu=("--criu", "/nowhere/criu"), wanted=("/nowhere/criu",))

    def test_ASourceWithAnOldCriuSaysSo(self):
        self.refused(send_criu=("--criu", self.old_criu()), wanted=("criu",))

    def test_ATargetWithoutCriuIsNotSentTo(self):
        guest = self.guest("--size", 16)
        try:
            target = self.recv(criu=("--criu", "/nowhere/criu"))
        except AssertionError as error:
            # It did not even listen.
            self.assertIn("/nowhere/criu", str(error))
        else:
            self.refusal(self.send(guest, target.address), "criu")
        self.assert_goes_on(guest)

    def test_AListenerTakesNoContainersUnasked(self):
        guest = self.guest("--size", 16)
        target = self.b.recv("--once", "--json")
        self.refusal(self.send(guest, target.address), "--accept container")
        self.assert_goes_on(guest)

    def test_ANumberThatIsTakenAtTheTargetRefuses(self):
        guest = self.guest("--size", 16)
        taken = self.b.start_guest("sleep", "1000")
        self.assertEqual(taken, guest.pid)
        target = self.recv()
        self.refusal(self.send(guest, target.address), str(taken))
        self.assert_goes_on(guest)
        self.assertTrue(self.b.alive(taken))

    def test_AFileFromOutsideThatTheTargetLacksFailsAndTheGuestGoesOn(self):
        folder = os.path.join(self.scratch.path, "only-here")
        os.makedirs(folder)
        self.a.run_in("mount", "-t", "tmpfs", "tmpfs", folder)
        guest = self.guest("--size", 16, "--file", os.path.join(folder, "file"))
        self.assertEqual(guest.missing, "")
        target = self.recv()
        self.refusal(self.send(guest, target.address))
        self.ended(target, FAILED)
        self.assert_goes_on(guest)
        self.assert_empty(self.b)


def _add(name, method, where):
    setattr(Failures, name, lambda self: getattr(self, method)(where))


for _phase in _PHASES:
    _add(f"test_CutAt{_phase}TheGuestGoesOnAtItsSource", "cut_before_commit", BEFORE_COMMIT[_phase])
    _add(f"test_KillingTheTargetAt{_phase}LeavesTheGuest", "kill_target", BEFORE_COMMIT[_phase])
    _add(f"test_KillingSendAt{_phase}LeavesTheGuest", "kill_send", BEFORE_COMMIT[_phase])
for _phase, _where in AFTER_COMMIT.items():
    _add(f"test_CutAt{_phase}OneGuestRuns", "cut_after_commit", _where)


if __name__ == "__main__":
    unittest.main()
