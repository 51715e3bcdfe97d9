"""Guests in files and back: every way to write an image, every way to restore it, and what goes wrong on the way.
Guests check their memory all the time; docs/image-format.md has the format."""

import json
import os
import signal
import subprocess
import unittest

from harness import CANCELLED, COMMAND, DONE, FAILED, LOST, REFUSED, USAGE, TwoHosts, UnixConnection, wait_for

# Looks at all of its memory again and again, from two vCPUs.
CHECKS_ALL = "writer:rate=20M,set=8M,fill=mixed,seed=5+reader:set=8M"
MEMORY = "32M"
PAGE = 4096


class Checkpoints(TwoHosts):
    def image(self, name="web.img"):
        return os.path.join(self.a.scratch.path, name)

    def start_guest(self, guest=CHECKS_ALL, *words, memory=MEMORY, vcpus=2):
        source = self.a.run(guest, *words, memory=memory, vcpus=vcpus)
        wait_for(lambda: self.work(self.a) > 0, "the guest to work")
        return source

    def checkpoint(self, *words, path=None, code=DONE, outcome="done"):
        report = self.a.json("checkpoint", "vm:web", path or self.image(), *words, code=code)
        self.assertEqual(report["outcome"], outcome, report)
        if outcome == "done":
            self.assertIsNone(report["error"])
        else:
            self.assert_error_is_clear_of(report["error"])
        return report

    def assert_error_is_clear_of(self, error):
        for field in ("code", "message", "remedy"):
            self.assertTrue(error[field], f"no {field}: {error}")

    def restore(self, *words, path=None, name="web", state="running"):
        """At host b; returns once the guest answers, with its process."""
        process = self.b.start("restore", path or self.image(), "--name", name, "--json", *words)
        wait_for(lambda: self.b.state(name) == state or not process.running(), "the guest to be restored")
        self.assertTrue(process.running(), process)
        return process

    def restored(self, process, mode):
        """The report, which comes when all memory is there."""
        report = wait_for(lambda: process.out.endswith("\n") and process.json(), "the report of the restore")
        self.assertEqual((report["outcome"], report["mode"]), ("done", mode), process)
        self.assertIsNone(report["error"])
        self.assertGreater(report["started_ms"], 0)
        self.assertGreaterEqual(report["total_ms"], report["started_ms"])
        self.assertEqual(report["integrity"]["digest"], "off" if mode == "mapped" else "equal")
        return report

    def verify(self, path=None):
        return self.a.json("image", "verify", path or self.image())

    def end(self, source):
        self.stop(self.a, source)


class Written(Checkpoints):
    def test_AGuestGoesOnAndItsImageRunsElsewhereFromThen(self):
        source = self.start_guest()
        before = self.a.stats()
        report = self.checkpoint()
        after = self.a.stats()
        self.assertEqual(report["changed_by"], None)
        self.assertGreater(report["pause_ms"], 0)
        pages = report["pages"]
        self.assertEqual(pages["stored"] + pages["zero"] + pages["duplicate"] + pages["parent"], pages["total"])
        self.assertEqual(pages["total"] * PAGE, report["bytes"]["guest"])
        self.assertLess(pages["stored"] * PAGE, report["bytes"]["guest"])
        self.assertEqual(os.stat(self.image()).st_size, report["bytes"]["file"])
        self.assertEqual(os.stat(self.image()).st_mode & 0o777, 0o600)
        self.assert_runs(self.a)
        self.verify()
        target = self.restore()
        self.restored(target, "eager")
        stats = self.b.stats()
        # As it was between the two, and on from there.
        self.assertGreaterEqual(stats["pages_written"], before["pages_written"])
        self.assertGreaterEqual(stats["uptime_ms"], before["uptime_ms"])
        self.assertLess(before["uptime_ms"], after["uptime_ms"])
        self.assert_checks_itself(self.b)
        self.assert_checks_itself(self.a)
        self.stop(self.b, target)
        self.end(source)
        self.assert_nothing_left()

    def test_LiveItStandsForAMoment(self):
        source = self.start_guest("writer:rate=100M,set=16M,fill=random,seed=2+reader:set=8M", memory="128M")
        # Again when the guest wrote nothing while its memory was saved: it may have had no processor.
        for _ in range(20):
            report = self.checkpoint("--live")
            self.assertTrue(report["live"])
            self.assertGreater(report["pause_ms"], 0)
            if report["pages"]["copied"] > 0:
                break
        self.assertGreater(report["pages"]["copied"], 0, "the guest wrote nothing while its memory was saved")
        self.verify()
        self.assert_checks_itself(self.a)
        target = self.restore()
        self.assert_checks_itself(self.b)
        self.stop(self.b, target)
        self.end(source)
        self.assert_nothing_left()

    def test_AGuestThatStandsStays(self):
        source = self.start_guest()
        self.a.json("pause", "web")
        for live in ((), ("--live",)):
            report = self.checkpoint(*live)
            self.assertIsNone(report["pause_ms"])
            self.assertEqual(self.a.state(), "paused")
        target = self.restore(state="paused")
        self.restored(target, "eager")
        self.assertEqual(self.b.state(), "paused")
        self.b.json("resume", "web")
        self.assert_checks_itself(self.b)
        self.stop(self.b, target)
        self.a.json("resume", "web")
        self.end(source)

    def test_StoppedItGoesOnFromItsImageAlone(self):
        source = self.start_guest()
        report = self.checkpoint("--stop")
        self.assertIsNone(report["pause_ms"])
        self.ended(source, DONE)
        written = self.a.json("image", "inspect", self.image())
        self.assertEqual(written["guest"]["state"], "running")
        target = self.restore()
        self.restored(target, "eager")
        self.assert_checks_itself(self.b)
        self.stop(self.b, target)
        self.assert_nothing_left()

    def test_APipeIsAsGoodAsAFile(self):
        source = self.start_guest()
        environment = dict(os.environ, MIGRATE_RUNTIME_DIR=self.a.folder)
        with subprocess.Popen([COMMAND, "checkpoint", "vm:web", "-", "--live"], env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
            with open(self.image("pipe.img"), "wb") as file:
                file.write(writer.stdout.read())
            said = writer.stderr.read().decode()
            self.assertEqual(writer.wait(), DONE, said)
        self.assertIn("a stream", said)
        self.verify(self.image("pipe.img"))
        environment["MIGRATE_RUNTIME_DIR"] = self.b.folder
        with open(self.image("pipe.img"), "rb") as file, subprocess.Popen(
                ["cat"], stdin=file, stdout=subprocess.PIPE) as cat, subprocess.Popen(
                    [COMMAND, "restore", "-", "--json"], env=environment, stdin=cat.stdout,
                    stdout=subprocess.PIPE) as reader:
            cat.stdout.close()
            try:
                wait_for(lambda: self.b.state() == "running" or reader.poll() is not None, "the guest")
                self.assertIsNone(reader.poll())
                self.assert_checks_itself(self.b)
                self.b.json("stop", "web")
                report = json.loads(reader.stdout.read())
                self.assertEqual(reader.wait(), DONE)
            finally:
                reader.kill()
        self.assertEqual(report["integrity"]["digest"], "equal")
        self.end(source)
        self.assert_nothing_left()

    def test_AReaderThatGoesEndsItAndTheGuestGoesOn(self):
        source = self.start_guest()
        environment = dict(os.environ, MIGRATE_RUNTIME_DIR=self.a.folder)
        with subprocess.Popen([COMMAND, "checkpoint", "vm:web", "-"], env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as writer:
            writer.stdout.read(4096)
            writer.stdout.close()
            self.assertEqual(writer.wait(), FAILED)
        self.assert_checks_itself(self.a)
        self.checkpoint()
        self.end(source)


    def test_AReaderThatStandsStillKeepsNobody(self):
        source = self.start_guest("counter:fill=random", memory="256M", vcpus=1)
        environment = dict(os.environ, MIGRATE_RUNTIME_DIR=self.a.folder)
        with subprocess.Popen([COMMAND, "checkpoint", "vm:web", "-"], env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as writer:
            writer.stdout.read(4096)
            writer.send_signal(signal.SIGINT)
            self.assertEqual(writer.wait(60), CANCELLED)
        self.assert_runs(self.a)
        self.end(source)
        self.assert_nothing_left()

    def test_AStreamThatNobodyReadsIsNotWaitedFor(self):
        source = self.start_guest()
        os.mkfifo(self.image("fifo"))
        connection = UnixConnection(os.path.join(self.a.folder, "web.sock"))
        try:
            connection.request("POST", "/v1/checkpoint", json.dumps({"stream": self.image("fifo")}))
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        self.assertIn("cannot write to the stream", json.dumps(answer))
        self.end(source)
        self.assert_nothing_left()


class Incremental(Checkpoints):
    def test_OnlyWhatChangedIsWrittenAndAllOfItComesBack(self):
        source = self.start_guest("writer:rate=1M,set=1M,fill=random,seed=3+reader:set=4M")
        first = self.checkpoint("--keep-tracking", path=self.image("0"))
        self.assertEqual(self.a.guest()["tracking_since"], first["id"])
        written = self.a.stats()["pages_written"]
        wait_for(lambda: self.a.stats()["pages_written"] > written + 10, "the guest to write")
        second = self.checkpoint("--base", self.image("0"), "--keep-tracking", "--live", path=self.image("1"))
        self.assertEqual((second["changed_by"], second["parent"]), ("tracker", first["id"]))
        self.assertGreater(second["pages"]["stored"], 0)
        self.assertLess(second["bytes"]["file"], first["bytes"]["file"] / 4)
        # Without the tracker: by hashes.
        third = self.checkpoint("--base", self.image("1"), path=self.image("2"))
        self.assertIsNone(self.a.guest()["tracking_since"])
        fourth = self.checkpoint("--base", self.image("2"), path=self.image("3"))
        self.assertEqual((third["changed_by"], fourth["changed_by"]), ("tracker", "hashes"))
        seen = self.a.json("image", "inspect", self.image("3"))
        self.assertEqual([file["id"] for file in seen["chain"]],
                         [each["id"] for each in (fourth, third, second, first)])
        self.assertEqual(self.verify(self.image("3"))["files"], 4)
        target = self.restore(path=self.image("3"))
        self.restored(target, "eager")
        self.assert_checks_itself(self.b)
        self.stop(self.b, target)
        # Merged it needs none of them, and is the same guest.
        self.a.json("image", "flatten", self.image("3"), "--into", self.image("all"))
        for name in "0123":
            os.unlink(self.image(name))
        self.verify(self.image("all"))
        target = self.restore("--lazy", path=self.image("all"))
        self.restored(target, "lazy")
        self.assert_checks_itself(self.b)
        self.stop(self.b, target)
        self.end(source)
        self.assert_nothing_left()

    def test_ABaseOfAnotherGuestOrAMissingOneIsRefused(self):
        source = self.start_guest()
        other = self.a.run("counter", name="other", memory="64M")
        self.a.json("checkpoint", "vm:other", self.image("other"))
        self.checkpoint("--base", self.image("other"), code=REFUSED, outcome="refused")
        self.checkpoint("--base", self.image("none"), code=FAILED, outcome="failed")
        self.assertFalse(os.path.exists(self.image()))
        self.checkpoint(path=self.image("0"))
        self.checkpoint("--base", self.image("0"), path=self.image("1"))
        os.rename(self.image("0"), self.image("moved"))
        gone = self.b.start("restore", self.image("1"), "--json")
        self.assertEqual(gone.wait(), FAILED, gone)
        self.assert_error_is_clear_of(gone.json()["error"])
        target = self.restore("--parent", self.image("moved"), path=self.image("1"))
        self.assert_checks_itself(self.b)
        self.stop(self.b, target)
        self.stop(self.a, other, name="other")
        self.end(source)

    def test_ASeriesHasItsLatestAtAnyTime(self):
        source = self.start_guest()
        writer = self.a.start("checkpoint", "vm:web", "--to", self.image("latest"), "--every", "50ms", "--json")
        wait_for(lambda: os.path.exists(self.image("latest")) or not writer.running(), "the first image")
        for _ in range(3):
            target = self.restore(path=self.image("latest"))
            self.assert_checks_itself(self.b)
            self.stop(self.b, target)
            # Until it is told to end it goes on.
            former = os.readlink(self.image("latest"))
            wait_for(lambda former=former: os.readlink(self.image("latest")) != former or not writer.running(),
                     "the next image")
            self.assertTrue(writer.running(), writer)
        writer.signal(signal.SIGINT)
        summary = self.ended(writer, DONE).json()
        self.assertEqual(summary["outcome"], "done", writer)
        self.assertEqual(summary["latest"], self.image(f"latest.{summary['checkpoints']:06}"))
        self.assertEqual(self.a.guest()["tracking_since"], None)
        # A second series takes its place, and what the first has left goes.
        again = self.series("--every", "1ms", "--count", "2")
        last = summary["checkpoints"] + 2
        self.assertEqual(again["latest"], self.image(f"latest.{last:06}"))
        self.assertEqual(self.images(), [f"latest.{last - 1:06}", f"latest.{last:06}"])
        self.assert_latest_is_whole()
        self.end(source)
        self.assert_nothing_left()

    def test_OfManyInASeriesTheOlderAreMergedAndGo(self):
        source = self.start_guest()
        summary = self.series("--every", "1ms", "--count", "36")
        self.assertEqual((summary["outcome"], summary["checkpoints"]), ("done", 36))
        # The first merge is of the 33rd, and over when the series is.
        self.assertEqual(summary["merges"], 1)
        self.assertEqual(self.images(), [f"latest.{number:06}" for number in range(33, 37)])
        self.assertEqual(self.a.guest()["tracking_since"], None)
        self.assert_latest_is_whole()
        self.end(source)
        self.assert_nothing_left()

    def series(self, *words):
        return self.a.json("checkpoint", "vm:web", self.image("latest"), *words)

    def images(self):
        return sorted(name for name in os.listdir(self.a.scratch.path) if name.startswith("latest."))

    def assert_latest_is_whole(self):
        self.verify(self.image("latest"))
        target = self.restore(path=self.image("latest"))
        self.assert_checks_itself(self.b)
        self.stop(self.b, target)


class Restored(Checkpoints):
    def setUp(self):
        super().setUp()
        source = self.start_guest()
        self.checkpoint("--compress", "none", "--stop")
        self.ended(source, DONE)

    def test_LazilyItIsThereAtOnce(self):
        target = self.restore("--lazy")
        report = self.restored(target, "lazy")
        pages = report["pages"]
        self.assertGreater(pages["demand"] + pages["background"], 0)
        self.assert_checks_itself(self.b)
        # All of it is there: it may leave.
        self.assertEqual(self.b.guest()["memory"], "complete")
        self.stop(self.b, target)
        self.assert_nothing_left()

    def test_AnotherOneThanInTheFile(self):
        for words in ((), ("--lazy",)):
            target = self.restore("--new-identity", *words)
            self.restored(target, "lazy" if words else "eager")
            self.assert_checks_itself(self.b)
            self.stop(self.b, target)

    def test_WhatItTouchedFirstIsThereBeforeItAsks(self):
        target = self.restore("--lazy", "--record", self.image("set"), "--record-for", "2s", "--no-background")
        wait_for(lambda: os.path.exists(self.image("set")) or not target.running(), "the working set")
        self.assert_checks_itself(self.b)
        self.stop(self.b, target)
        target = self.restore("--lazy", "--prefetch", self.image("set"))
        report = self.restored(target, "lazy")
        self.assertGreater(report["pages"]["prefetched"], 0)
        self.assert_checks_itself(self.b)
        self.stop(self.b, target)

    def test_MappedManyShareOneFile(self):
        with open(self.image(), "rb") as file:
            before = file.read()
        targets = [self.restore("--mapped", name=f"web{i}") for i in range(3)]
        for i, target in enumerate(targets):
            report = self.restored(target, "mapped")
            self.assertGreater(report["pages"]["mapped"], 0)
            self.assert_checks_itself(self.b, f"web{i}")
        used = [guest["host_memory"] for guest in self.b.json("ps", "--memory")["guests"]]
        self.assertEqual(len(used), 3)
        for each in used:
            # What they only read is there once.
            self.assertGreater(each["shared_bytes"], 4 << 20)
            self.assertLess(each["proportional_bytes"], each["private_bytes"] + each["shared_bytes"])
        for i, target in enumerate(targets):
            self.stop(self.b, target, name=f"web{i}")
        with open(self.image(), "rb") as file:
            self.assertEqual(file.read(), before)

    def test_ARestoredGuestMigratesAndIsWrittenAgain(self):
        for words in ((), ("--lazy",), ("--mapped",)):
            with self.subTest(words=words):
                target = self.restore(*words)
                wait_for(lambda t=target: t.out.endswith("\n"), "all of its memory")
                # Of a file's private pages nothing says when they are written.
                live = () if words == ("--mapped",) else ("--live",)
                self.b.json("checkpoint", "vm:web", self.image("again"), *live)
                listener = self.a.recv("--once", "--json")
                report = self.report(self.b.send(listener.address, "--verify", "full"), "done", DONE)
                self.assertEqual(report["integrity"]["full"], "equal")
                self.ended(target, DONE)
                self.assert_checks_itself(self.a)
                self.stop(self.a, listener)

    def test_ADamagedImageIsRefusedOrNeverSeen(self):
        size = os.path.getsize(self.image())
        for at, code in ((200, FAILED), (size - 4000, FAILED), (size // 2, FAILED)):
            with open(self.image(), "r+b") as file:
                file.seek(at)
                old = file.read(1)
                file.seek(at)
                file.write(bytes([old[0] ^ 0x10]))
            bad = self.b.start("restore", self.image(), "--json")
            self.assertEqual(bad.wait(), code, bad)
            self.assert_error_is_clear_of(bad.json()["error"])
            verified = self.a.start("image", "verify", self.image(), "--json")
            self.assertEqual(verified.wait(), FAILED, verified)
            with open(self.image(), "r+b") as file:
                file.seek(at)
                file.write(old)
        self.verify()
        self.assert_absent(self.b)
        self.assertEqual(self.b.files(), [])

    def test_WhatIsNoImageIsSaid(self):
        paths = {"empty": b"", "text": b"hello" * 2000}
        for name, content in paths.items():
            with open(self.image(name), "wb") as file:
                file.write(content)
        os.mkfifo(self.image("fifo"))
        for path in (*map(self.image, (*paths, "fifo", "absent")), self.a.scratch.path):
            bad = self.b.start("restore", path, "--json")
            self.assertIn(bad.wait(), (FAILED, USAGE, REFUSED), bad)
            self.assert_error_is_clear_of(bad.json()["error"])

    def test_AnImageIsSentWithoutStartingIt(self):
        target = self.b.recv("--once", "--json")
        send = self.a.start("send", f"image:{self.image()}", target.address, "--json")
        report = self.report(send, "done", DONE)
        self.assertEqual(report["integrity"]["digest"], "equal")
        self.assert_checks_itself(self.b)
        # And back into a file.
        listener = self.a.recv("--once", "--json", "--into", self.image("back"))
        self.report(self.b.send(listener.address), "done", DONE)
        self.ended(target, DONE)
        self.ended(listener, DONE)
        self.verify(self.image("back"))
        target = self.restore(path=self.image("back"))
        self.assert_checks_itself(self.b)
        self.stop(self.b, target)
        self.assert_nothing_left()


class Broken(Checkpoints):
    def test_CancelledTheGuestGoesOn(self):
        source = self.start_guest("writer:rate=50M,set=16M,fill=random", memory="512M", vcpus=1)
        for live in ((), ("--live",)):
            writer = self.a.start("checkpoint", "vm:web", self.image(), "--json", "--compress", "zstd:19", *live)
            wait_for(lambda: self.a.state() == "checkpointing" or not writer.running(), "the checkpoint")
            writer.signal(signal.SIGINT)
            self.assertEqual(self.ended(writer, CANCELLED).json()["outcome"], "cancelled")
            self.assertFalse(os.path.exists(self.image()))
            self.assert_runs(self.a)
        self.assertEqual([name for name in os.listdir(self.a.scratch.path) if "partial" in name], [])
        self.end(source)
        self.assert_nothing_left()

    def test_AClientThatIsKilledCancelsNothing(self):
        source = self.start_guest("counter:fill=random", memory="512M", vcpus=1)
        writer = self.a.start("checkpoint", "vm:web", self.image(), "--compress", "zstd:5")
        wait_for(lambda: self.a.state() == "checkpointing", "the checkpoint")
        writer.kill()
        wait_for(lambda: os.path.exists(self.image()), "the image")
        wait_for(lambda: self.a.state() == "running", "the guest")
        self.verify()
        self.end(source)

    def test_AKilledGuestLeavesTheFormerImage(self):
        source = self.start_guest("counter:fill=random", memory="512M", vcpus=1)
        self.checkpoint()
        with open(self.image(), "rb") as file:
            before = file.read(1 << 20)
        writer = self.a.start("checkpoint", "vm:web", self.image(), "--json", "--compress", "zstd:19")
        wait_for(lambda: self.a.state() == "checkpointing", "the checkpoint")
        source.kill()
        self.assertNotEqual(writer.wait(), DONE)
        with open(self.image(), "rb") as file:
            self.assertEqual(file.read(1 << 20), before)
        self.verify()

    def test_AFolderThatIsNotThereOrFullIsSaid(self):
        source = self.start_guest()
        self.checkpoint(path=self.image("nowhere/web.img"), code=FAILED, outcome="failed")
        self.checkpoint(path="/proc/self/web.img", code=FAILED, outcome="failed")
        self.assert_runs(self.a)
        self.end(source)

    def test_WhileItIsWrittenNothingElseIsDoneToIt(self):
        source = self.start_guest("counter:fill=random", memory="512M", vcpus=1)
        writer = self.a.start("checkpoint", "vm:web", self.image(), "--json", "--live", "--compress", "zstd:19")
        wait_for(lambda: self.a.state() == "checkpointing", "the checkpoint")
        for words in (("pause", "web"), ("checkpoint", "vm:web", self.image("2"))):
            refused = self.a.start(*words, "--json")
            self.assertEqual(refused.wait(), FAILED, refused)
            self.assertEqual(refused.json()["error"]["code"], "busy")
        # A stop ends both.
        self.a.json("stop", "web")
        self.assertNotEqual(writer.wait(), DONE)
        self.ended(source, DONE)
        self.assertFalse(os.path.exists(self.image()))
        self.assert_nothing_left()

    def test_ALazyGuestWhoseImageIsDamagedIsKeptPaused(self):
        source = self.start_guest("counter:fill=random,seed=1", vcpus=1)
        self.checkpoint("--stop", "--compress", "none")
        self.ended(source, DONE)
        # Most of the file is pages, in the order of memory; each byte of one is covered by its hash.
        size = os.path.getsize(self.image())
        with open(self.image(), "r+b") as file:
            for at in range(size // 2, size // 2 + (4 << 20), PAGE // 2):
                file.seek(at)
                old = file.read(1)
                file.seek(at)
                file.write(bytes([old[0] ^ 1]))
        target = self.b.start("restore", self.image(), "--lazy", "--json")
        wait_for(lambda: target.out.endswith("\n"), "the loss to be noticed")
        self.assertEqual(target.json()["outcome"], "lost", target)
        self.assert_error_is_clear_of(target.json()["error"])
        wait_for(lambda: self.b.guest()["memory"] == "lost", "the guest to be known as lost")
        refused = self.b.start("resume", "web", "--json")
        self.assertNotEqual(refused.wait(), DONE)
        self.b.json("stop", "web")
        self.ended(target, LOST)
        self.assert_nothing_left()


if __name__ == "__main__":
    unittest.main()
