"""Guest memory from the host's pool of huge pages, at the source, at the target, or at both."""

import fcntl
import os
import signal
import time

from harness import DONE, FAILED, REFUSED, USAGE, TwoHosts, wait_for

_POOL = "/proc/sys/vm/nr_hugepages"
_SYS = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
PAGE = 2 << 20


def _number(path):
    with open(path, encoding="ascii") as file:
        return int(file.read())


def unclaimed():
    return _number(_SYS + "free_hugepages") - _number(_SYS + "resv_hugepages")


class HugePages(TwoHosts):
    # A page of every kind of 64 MiB: zero, text and random; what is written, and what is checked.
    WORKLOAD = "writer:rate=50M,set=16M,fill=mixed,seed=5+reader:set=8M"

    def reserve(self, count):
        """`count` pages more than others have, until the test ends. One holder at a time, over all
        processes (tests/support/huge_pages.hpp takes the same lock)."""
        try:
            lock = open(_POOL, "r+", encoding="ascii")
        except OSError as error:
            # scripts/test knows the first words.
            who = "this host gives no" if os.geteuid() == 0 else "only root sets"
            self.skipTest(f"{who} huge pages: {error}")
        self.addCleanup(lock.close)
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = _number(_POOL)
        self.addCleanup(self.set_pool, before)
        # Hosts' processes go first: their pages could not be given back.
        self.addCleanup(self.end_all)
        for _ in range(20):
            self.set_pool(before + count)
            if unclaimed() >= count:
                return
            # Memory in small pieces is no huge page until the kernel has put them together.
            with open("/proc/sys/vm/compact_memory", "w", encoding="ascii") as file:
                file.write("1")
            time.sleep(0.1)
        self.skipTest("this host gives no huge pages: memory is short")

    def end_all(self):
        for host in (self.a, self.b):
            for pid in host.pids():
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda host=host: not host.pids(), "the guests to go")

    @staticmethod
    def wait_for_unclaimed(count):
        """The kernel gives pages back in its own time once their last user is gone."""
        wait_for(lambda: unclaimed() == count, f"{count} huge pages that nobody has claimed")

    @staticmethod
    def set_pool(count):
        with open(_POOL, "w", encoding="ascii") as file:
            file.write(str(count))

    def move(self, here, there, listener, source, *options):
        before = here.stats()
        report = self.report(here.send(listener.address, "--verify", "full", *options), "done", DONE)
        self.assertEqual(report["integrity"]["digest"], "equal")
        # Of pure post-copy nothing but holes is there to be hashed.
        pure = report["strategy"] == "postcopy"
        self.assertEqual(report["integrity"]["full"], "off" if pure else "equal")
        self.ended(source, DONE)
        after = there.stats()
        self.assertGreaterEqual(after["pages_written"], before["pages_written"])
        # Two passes: the second began and ended here.
        wait_for(lambda: there.stats()["verify_passes"] >= after["verify_passes"] + 2,
                 "the guest to check its memory")
        self.assert_memory_right(there)
        return report

    def journey(self, tracker):
        """Huge to huge, to ordinary, and to huge again."""
        self.skip_without(tracker)
        self.reserve(64)
        track = ("--tracker", tracker)
        free = unclaimed()
        source = self.a.run(self.WORKLOAD, "--huge-pages", *track, vcpus=2)
        self.wait_for_unclaimed(free - 32)
        at_b = self.b.recv("--once", "--huge-pages", *track)
        self.move(self.a, self.b, at_b, source)
        self.wait_for_unclaimed(free - 32)
        at_a = self.a.recv("--once", *track)
        self.move(self.b, self.a, at_a, at_b)
        self.wait_for_unclaimed(free)
        # By a listener that stays, which has to hand the option on.
        listener = self.b.recv("--huge-pages", *track)
        self.move(self.a, self.b, listener, at_a)
        self.wait_for_unclaimed(free - 32)
        self.stop(self.b)
        self.wait_for_unclaimed(free)

    def test_AGuestMovesBetweenHugeAndOrdinaryPagesUnderTheLog(self):
        self.journey("log")

    def test_AGuestMovesBetweenHugeAndOrdinaryPagesUnderTheRing(self):
        self.journey("ring")

    def test_AGuestMovesBetweenHugeAndOrdinaryPagesUnderWriteProtection(self):
        self.journey("write-protect")

    def test_AGuestMovesBetweenHugeAndOrdinaryPagesUnderContentHash(self):
        self.journey("hash")

    def follow(self, *strategy):
        """Its memory follows it: from ordinary to huge pages, to huge ones again, and back."""
        self.reserve(64)
        free = unclaimed()
        source = self.a.run(self.WORKLOAD, vcpus=2)
        at_b = self.b.recv("--once", "--huge-pages")
        reports = [self.move(self.a, self.b, at_b, source, *strategy)]
        self.wait_for_unclaimed(free - 32)
        at_a = self.a.recv("--once", "--huge-pages")
        reports.append(self.move(self.b, self.a, at_a, at_b, *strategy))
        at_b = self.b.recv("--once")
        reports.append(self.move(self.a, self.b, at_b, at_a, *strategy))
        self.wait_for_unclaimed(free)
        self.stop(self.b, at_b)
        for report in reports:
            self.assertEqual(report["strategy"], strategy[1])
            self.assertGreater(report["pages"]["demand"] + report["pages"]["pushed"], 0)

    def test_MemoryFollowsAGuestBetweenHugeAndOrdinaryPages(self):
        self.follow("--strategy", "postcopy")

    def test_MemoryFollowsAGuestBetweenHugeAndOrdinaryPagesAfterRounds(self):
        self.follow("--strategy", "hybrid", "--max-downtime", "1us")

    def test_ATargetWithoutThemRefusesBeforeTheGuestIsTouched(self):
        self.reserve(48)
        source = self.a.run("counter", "--huge-pages")
        target = self.b.recv("--once", "--huge-pages", "--json")
        report = self.report(self.a.send(target.address), "refused", REFUSED)
        self.assertEqual(report["error"]["code"], "no-memory")
        self.assertEqual(report["error"]["phase"], "preflight")
        self.assertEqual(report["error"]["side"], "target")
        missing = 32 - unclaimed()
        self.assertIn(f"{missing} are missing", report["error"]["message"])
        self.assertIn(_POOL, report["error"]["remedy"])
        self.assertEqual(report["bytes"]["wire"], 0)
        self.assert_runs(self.a)
        self.ended(target, FAILED)
        self.stop(self.a, source)
        self.assert_nothing_left()

    def test_AGuestLargerThanThePoolIsNotStarted(self):
        self.reserve(8)
        pages = unclaimed() + 3
        error = self.a.json("run", "web", "--memory", f"{2 * pages}M", "--huge-pages",
                            code=FAILED)["error"]
        self.assertEqual(error["code"], "no-memory")
        self.assertIn("3 are missing", error["message"])
        self.assertIn(f"echo {_number(_POOL) + 3} > {_POOL}", error["remedy"])
        self.assert_nothing_left()

    def test_SizesThatCannotBeAreRefused(self):
        for words, code in ((("--huge-pages=3M",), "invalid-argument"),
                            (("--huge-pages=1G", "--memory", "64M"), "invalid-argument")):
            error = self.a.json("run", "web", *words, code=USAGE)["error"]
            self.assertEqual(error["code"], code)
            self.assertTrue(error["remedy"])
        self.assert_nothing_left()
