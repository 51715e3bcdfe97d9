"""Process trees in files and back: full, incremental and lazily read images, and what goes wrong on the way. The guest
checks each of its pages itself."""

import json
import os
import signal
import subprocess
import unittest

# It says where the others are. pylint: disable=wrong-import-order
from migrations import DONE, FAILED, NAME, REFUSED, Migrations, moves, wait_for
from harness import LOST
from hosts import reap_orphans

_PAGE = 4096


class Images(Migrations):
    def image(self, name="tree.img"):
        return os.path.join(self.scratch.path, name)

    def checkpoint(self, guest, *words, path=None, codes=(DONE,)):
        process = guest.host.start("checkpoint", f"pid:{guest.pid}", path or self.image(), "--json",
                                   *moves.criu_words(), *words)
        report = self.ended(process, *codes).json()
        if codes == (DONE,):
            self.assertEqual((report["outcome"], report["error"]), ("done", None), process)
            pages = report["pages"]
            self.assertEqual(pages["stored"] + pages["zero"] + pages["duplicate"] + pages["parent"], pages["total"])
            self.assertGreaterEqual(report["total_ms"], report["pause_ms"] or 0)
        return report

    def assert_clear(self, report, *wanted):
        for field in ("code", "message", "remedy"):
            self.assertTrue(report["error"][field], f"no {field}: {report}")
        for text in wanted:
            self.assertIn(text, report["error"]["message"] + " " + report["error"]["remedy"])

    def restore(self, *words, path=None):
        return self.b.start("restore", path or self.image(), "--name", NAME, "--json", *moves.criu_words(), *words)

    def restored(self, guest, *words, path=None, mode="eager"):
        """At host b, with its report once all memory is there."""
        process = self.restore(*words, path=path)
        report = wait_for(lambda: self.said(process), "the report of the restore")
        self.assertEqual((report["outcome"], report["mode"], report["error"]), ("done", mode, None), process)
        self.assertEqual(report["integrity"]["digest"], "equal")
        guest.moved_to(self.b)
        self.assert_goes_on(guest)
        return process, report

    @staticmethod
    def said(process):
        if process.out.endswith("\n"):
            return process.json()
        if not process.running():
            raise AssertionError(str(process))
        return None

    def stop(self, process):
        self.b.json("stop", NAME)
        self.ended(process, DONE)
        self.assert_empty(self.b)

    def tool(self, *words, code=DONE):
        process = self.a.start("image", *words, "--json")
        self.ended(process, code)
        return process.json()

    def gone(self, guest):
        self.assertFalse(guest.host.alive(guest.pid))
        self.assert_empty(guest.host)

    def write_byte(self, path, at, change=1):
        with open(path, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ change]))

    # What works.

    def test_AFullImageIsOfOneInstantAndTheTreeGoesOn(self):
        guest = self.guest("--kind", "anon,shared,brk", "--size", 32, "--tree", 2, "--timers",
                           "--links", tree=2)
        report = self.checkpoint(guest)
        self.assertGreater(report["pause_ms"], 0)
        self.assertIsNone(report["changed_by"])
        self.assert_goes_on(guest)
        found = self.tool("inspect", self.image())
        self.assertEqual((found["guest"]["kind"], found["guest"]["state"]), ("container", "running"))
        self.assertEqual(self.tool("verify", self.image())["pages"], report["pages"]["stored"])
        self.checkpoint(guest, "--stop", path=self.image("last"))
        self.gone(guest)
        process, _ = self.restored(guest, path=self.image("last"))
        self.stop(process)

    def test_AnIncrementalImageHasOnlyWhatChanged(self):
        guest = self.guest("--size", 64, "--rate", 1)
        full = self.checkpoint(guest, path=self.image("0"))
        self.assert_goes_on(guest)
        report = self.checkpoint(guest, "--base", self.image("0"), "--stop", path=self.image("1"))
        self.assertEqual((report["changed_by"], report["parent"]), ("hashes", full["id"]))
        self.assertGreater(report["pages"]["parent"], full["pages"]["stored"] // 2)
        self.assertLess(report["pages"]["stored"], full["pages"]["stored"] // 2)
        self.assertLess(os.stat(self.image("1")).st_size, os.stat(self.image("0")).st_size // 2)
        self.tool("verify", self.image("1"))
        self.assertEqual(self.tool("inspect", self.image("1"))["chain"][0]["parent"], full["id"])
        # Alone it says what it needs; flattened it needs nothing.
        self.tool("flatten", self.image("1"), "--into", self.image("whole"))
        os.rename(self.image("0"), self.image("elsewhere"))
        lost = self.ended(self.restore(path=self.image("1")), FAILED, REFUSED)
        self.assertIn(full["id"], lost.out + lost.err)
        self.assert_empty(self.b)
        process, _ = self.restored(guest, path=self.image("whole"))
        self.stop(process)

    def test_ATreeWhoseMappingsChangeIsWrittenIncrementally(self):
        guest = self.guest("--kind", "anon,grow,churn,mremap", "--size", 32, "--tree", 2, tree=2)
        self.checkpoint(guest, path=self.image("0"))
        parents = 0
        for number in (1, 2, 3):
            self.assert_goes_on(guest)
            words = ("--stop",) if number == 3 else ()
            report = self.checkpoint(guest, "--base", self.image(f"{number - 1}"), *words, path=self.image(f"{number}"))
            parents += report["pages"]["parent"]
        self.assertGreater(parents, 0)
        self.tool("verify", self.image("3"))
        self.tool("flatten", self.image("3"), "--into", self.image("whole"))
        self.tool("verify", self.image("whole"))
        process, report = self.restored(guest, "--lazy", path=self.image("3"), mode="lazy")
        self.assertEqual(len(self.tool("inspect", self.image("whole"))["chain"]), 1)
        self.stop(process)

    def test_ALazilyRestoredTreeRunsBeforeItsMemoryIsRead(self):
        guest = self.guest("--size", 128, "--tree", 2, "--rate", 1, tree=2)
        self.checkpoint(guest, "--stop")
        process, report = self.restored(guest, "--lazy", mode="lazy")
        self.assertGreater(report["pages"]["demand"], 0)
        self.assertLess(report["started_ms"], report["total_ms"])
        self.stop(process)

    def runs_without_background(self, guest):
        """Nothing is read before it is touched."""
        process = self.restore("--lazy", "--no-background")
        wait_for(lambda: self.b.state(NAME) == "running" or not process.running(), "the tree to run")
        self.assertTrue(process.running(), process)
        # Not found by its words, which are memory that is not there either.
        guest.host = self.b
        return process

    def test_WhatATreeDoesNotTouchIsNotRead(self):
        guest = self.guest("--size", 8, "--tree", 2, "--rate", 1, tree=2)
        self.checkpoint(guest, "--stop")
        process = self.runs_without_background(guest)
        # Its own check of all pages touches everything.
        self.assertFalse(self.b.json("stats", NAME)["memory_filled"])
        self.assert_goes_on(guest)
        self.stop(process)

    def test_AContainerWithNamespacesIsRestoredInItsRoot(self):
        root = self.bed.container_root()
        guest = self.guest("--kind", "anon,shared", "--size", 16, container=root, tmpfs="/tmp")
        self.checkpoint(guest, path=self.image("0"))
        self.checkpoint(guest, "--base", self.image("0"), "--stop")
        process, _ = self.restored(guest, "--lazy", "--container-root", root, mode="lazy")
        self.stop(process)

    # What does not.

    def test_KillingALazyRestoreEndsTheTreeAndMakesNoZeros(self):
        guest = self.guest("--size", 64, "--rate", 1)
        self.checkpoint(guest, "--stop")
        process = self.runs_without_background(guest)
        process.signal(signal.SIGKILL)
        process.wait()
        self.assert_empty(self.b)
        # Nobody of that host has a killed command's child to bury.
        wait_for(lambda: reap_orphans() or not os.path.exists(self.b.proc(guest.pid)), "the tree's number to be free")
        self.assertEqual([line for line in guest.lines("verify") if line["bad"]], [])
        # And it is there still, in its image.
        process, _ = self.restored(guest)
        self.stop(process)

    def test_ABrokenImageIsNotRestored(self):
        guest = self.guest("--size", 32)
        self.checkpoint(guest, "--compress", "none", "--stop")
        self.write_byte(self.image(), os.stat(self.image()).st_size // 2)
        process = self.a.start("image", "verify", self.image())
        self.ended(process, FAILED)
        self.assertIn(self.image(), process.err)
        report = self.ended(self.restore(), FAILED, REFUSED).json()
        self.assert_clear(report)
        self.assert_empty(self.b)
        # Read lazily it runs, and stands before it could see the page.
        process = self.restore("--lazy")
        report = wait_for(lambda: self.said(process), "the report of the restore")
        self.assertEqual(report["outcome"], "lost", report)
        self.assert_clear(report)
        wait_for(lambda: self.b.state(NAME) == "paused", "the tree to stand")
        self.b.json("stop", NAME)
        self.ended(process, LOST)
        self.assert_empty(self.b)
        self.assertEqual([line for line in guest.lines("verify") if line["bad"]], [])
        self.write_byte(self.image(), os.stat(self.image()).st_size // 2)
        process, _ = self.restored(guest)
        self.stop(process)

    def test_ANumberThatIsTakenRefusesTheRestore(self):
        guest = self.guest("--size", 16)
        self.checkpoint(guest, "--stop")
        taken = self.b.start_guest("sleep", "1000")
        self.assertEqual(taken, guest.pid)
        for words in ((), ("--lazy",)):
            report = self.ended(self.restore(*words), FAILED, REFUSED).json()
            self.assert_clear(report, str(taken))
            self.assertEqual(self.b.all_pids(), [taken])

    def test_WithoutRoomForItsImageTheTreeGoesOn(self):
        guest = self.guest("--kind", "anon,shared", "--size", 32)
        small = self.image("small")
        os.makedirs(small)
        self.a.run_in("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small)
        report = self.checkpoint(guest, path=os.path.join(small, "image"), codes=(FAILED,))
        self.assert_clear(report)
        self.assert_goes_on(guest)
        self.assertEqual(self.a.run_in("ls", "-A", small), "")
        # Nor with a base, nor without room for what CRIU writes.
        self.checkpoint(guest, path=self.image("0"))
        report = self.checkpoint(guest, "--base", self.image("0"), path=os.path.join(small, "nowhere", "image"),
                                 codes=(FAILED, REFUSED))
        self.assert_goes_on(guest)
        self.a.run_in("mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", self.a.folder)
        report = self.checkpoint(guest, codes=(FAILED,))
        self.assert_clear(report)
        self.assertFalse(os.path.exists(self.image()))
        self.assert_goes_on(guest)

    def test_AKilledCheckpointLeavesTheTreeRunning(self):
        guest = self.guest("--size", 64)
        environment = dict(os.environ, MIGRATE_RUNTIME_DIR=self.a.folder)
        words = [*self.a.prefix, self.a.program, "checkpoint", f"pid:{guest.pid}", "-", *moves.criu_words()]
        # Nobody reads what it writes, so that it stands, with the tree.
        # Killed below. pylint: disable-next=consider-using-with
        writer = subprocess.Popen([str(word) for word in words], env=environment, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.addCleanup(writer.stdout.close)
        self.addCleanup(lambda: (writer.kill(), writer.wait()))
        self.assertTrue(os.read(writer.stdout.fileno(), _PAGE))

        def stands():
            before = guest.loops()
            return not self.moves_within(guest, before)

        wait_for(stands, "the tree to stand")
        writer.kill()
        writer.wait()
        self.assert_goes_on(guest)
        self.checkpoint(guest)
        self.assert_goes_on(guest)

    def moves_within(self, guest, before):
        try:
            wait_for(lambda: guest.loops() > before, "its progress", 0.5)
        except AssertionError:
            return False
        return True

    def test_WhatATreeCannotDoIsRefusedWithAReason(self):
        guest = self.guest("--size", 16)
        for words in (("--live",), ("--keep-tracking",), ("--every", "1s")):
            process = self.a.start("checkpoint", f"pid:{guest.pid}", self.image(), "--json", *words)
            self.ended(process, FAILED)
            error = json.loads(process.out)["error"]
            self.assertIn("--base", error["remedy"], words)
        self.assertFalse(os.path.exists(self.image()))
        self.assert_goes_on(guest)
        self.checkpoint(guest)
        process = self.restore("--mapped")
        self.ended(process, FAILED, REFUSED)
        self.assert_clear(process.json())
        self.assert_empty(self.b)


if __name__ == "__main__":
    unittest.main()
