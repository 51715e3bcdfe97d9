"""Memory of every kind arrives as it was, and programs of several sorts go on where they were."""

import fcntl
import hashlib
import os
import time
import unittest

# It says where the others are. pylint: disable=wrong-import-order
from migrations import DONE, NAME, Migrations, wait_for
from guests import Program, gaps
from hosts import program

_KINDS = {"Anonymous": "anon", "HugePages": "thp", "Shared": "shared", "Memfd": "memfd",
          "Locked": "mlocked", "Stack": "stack", "Heap": "brk", "FilePrivate": "file", "Guarded": "guard",
          "DroppedPages": "dontneed", "MovedAreas": "mremap", "RenewedAreas": "churn", "GrowingAreas": "grow"}
# Far above what a stop takes here on a busy machine, far below what copying such a guest in the stop would.
_GAP_AT_MOST_MS = 5000
_POOL = "/proc/sys/vm/nr_hugepages"
_PYTHON = """
import hashlib, sys, time
chain, seen, number = b"", {}, 0
out = open(sys.argv[1], "a", buffering=1)
while True:
    for _ in range(100):
        number += 1
        chain = hashlib.sha256(chain + str(number).encode()).digest()
        seen[number % 5000] = [chain, str(number)]
    assert all(str(int(text)) == text for _, text in seen.values())
    out.write(f"{number} {chain.hex()}\\n")
    time.sleep(0.002)
"""


class Memory(Migrations):
    def there_and_back(self, *words, patience=60, **options):
        """Once with all memory before it runs, once with memory that follows it."""
        guest = self.guest(*words, **options)
        if guest.missing:
            self.skipTest(f"this host has no {guest.missing}")
        self.move(guest, self.b, strategy="precopy")
        self.assert_goes_on(guest)
        self.move(guest, self.a, strategy="hybrid")
        self.assert_memory_right(guest, patience)
        self.assert_goes_on(guest)
        return guest

    def test_StopCopyMovesAGuest(self):
        guest = self.guest("--size", 64)
        self.move(guest, self.b, strategy="stop-copy")
        self.assert_goes_on(guest)

    def test_AGuestMovesWithoutTheShim(self):
        guest = self.guest("--size", 64)
        self.move(guest, self.b, strategy="precopy", shim=False)
        self.assert_goes_on(guest)

    def test_AllOptionsOfTheEngineHold(self):
        guest = self.guest("--size", 32)
        report = self.move(guest, self.b, "--verify", "full", "--compress", "zstd")
        self.assertEqual(report["integrity"]["full"], "equal")
        self.assert_goes_on(guest)

    def test_AGuestOf1GiBStandsForAMoment(self):
        guest = self.guest("--size", 1024, "--rate", 20)
        since = time.time_ns()
        report = self.move(guest, self.b, strategy="hybrid")
        arrived = guest.loops()
        wait_for(lambda: guest.loops() > arrived + 20, "the guest to go on")
        # Not that of its check, which it does in one go.
        longest = gaps(guest.stamps, since)[0][0]
        self.assert_memory_right(guest, 300)
        self.assertGreater(report["downtime_ms"], 0)
        # A machine that is busier than that takes longer for everything: for a copy, too.
        self.assertLess(longest, max(_GAP_AT_MOST_MS, report["rounds"][0]["ms"] / 2))

    def test_AWriterOf400MbArrivesWhole(self):
        self.there_and_back("--size", 256, "--rate", 400)

    def test_ThreadsArriveTogether(self):
        self.there_and_back("--size", 64, "--threads", 8, "--rate", 100, "--timers")

    def test_ATreeOfEightArrivesWithItsSharedPagesSocketsAndTimers(self):
        guest = self.guest("--kind", "anon,shared", "--size", 32, "--tree", 8, "--links", "--timers", tree=8)
        before = guest.verify()
        self.move(guest, self.b)
        self.assert_goes_on(guest)
        after = guest.verify()
        for role, found in after.items():
            for counter in ("messages", "interval_timer", "posix_timer", "timer_fd"):
                self.assertGreater(found[counter], before[role][counter], (role, counter))

    def test_ATreesSharedPagesStaySharedOrTheCommandWarns(self):
        guest = self.guest("--size", 64, "--tree", 8, "--rate", 1, tree=8)
        before = self.footprint(self.a)
        target = self.recv()
        sender = self.ended(self.send(guest, target.address), DONE)
        guest.moved_to(self.b)
        self.assert_goes_on(guest)
        if "shared" not in sender.err:
            self.assertLess(self.footprint(self.b), 2 * before, sender)

    @staticmethod
    def footprint(host):
        """Bytes that its guests' processes have, shared ones once."""
        sum_kb = 0
        for pid in host.all_pids():
            with open(host.proc(pid, "smaps_rollup"), encoding="ascii") as file:
                sum_kb += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        return sum_kb << 10

    def test_AContainerWithNamespacesAndATmpfsArrives(self):
        root = self.bed.container_root()
        guest = self.guest("--kind", "anon,sysv,shared", "--size", 16, "--file", "/tmp/checked", container=root,
                           tmpfs="/tmp")
        self.assertEqual(guest.missing, "")
        self.move(guest, self.b, receiving=("--container-root", root))
        self.assert_goes_on(guest)

    def reserve_huge_pages(self, count):
        """More than others have, until the test ends; one holder at a time (tests/support/huge_pages.hpp)."""
        try:
            # Closed by a cleanup. pylint: disable-next=consider-using-with
            pool = open(_POOL, "r+", encoding="ascii")
        except OSError as error:
            self.skipTest(f"this host gives no huge pages: {error}")
        self.addCleanup(pool.close)
        fcntl.flock(pool, fcntl.LOCK_EX)
        before = int(pool.read())

        def set_pool(pages):
            with open(_POOL, "w", encoding="ascii") as file:
                file.write(str(pages))

        self.addCleanup(set_pool, before)
        # Its guests go first: their pages could not be given back.
        self.addCleanup(self.bed.close)
        set_pool(before + count)
        with open(_POOL, encoding="ascii") as file:
            if int(file.read()) < before + count:
                self.skipTest("this host gives no huge pages: memory is short")

    def test_HugeTlbMemoryArrivesAsItWas(self):
        # At the source, at the target, and once more while it is carried over.
        self.reserve_huge_pages(3 * 8)
        self.there_and_back("--kind", "hugetlb", "--size", 16)

    def test_PythonGoesOn(self):
        out = self.scratch.new_file("chain")
        guest = Program(self.a, program("python3"), "-S", "-c", _PYTHON, out)

        def last():
            with open(out, encoding="ascii") as file:
                lines = [line.split() for line in file if line.endswith("\n")]
            return int(lines[-1][0]), lines[-1][1]

        wait_for(lambda: os.path.exists(out) and os.path.getsize(out) > 10000, "the program to run")
        before, _ = last()
        self.move(guest, self.b)
        at_move, _ = last()
        wait_for(lambda: last()[0] > at_move + 1000, "the program to go on")
        number, told = last()
        self.assertGreater(number, before)
        chain = b""
        for index in range(1, number + 1):
            chain = hashlib.sha256(chain + str(index).encode()).digest()
        self.assertEqual(told, chain.hex())

    def test_AnArrivedGuestIsShownPausedAndStopped(self):
        guest = self.guest("--size", 16)
        self.move(guest, self.b)
        self.assertEqual([entry["name"] for entry in self.b.json("ps")["guests"]], [NAME])
        self.assertEqual(self.b.json("status", NAME)["state"], "running")
        self.b.json("pause", NAME)
        self.assertFalse(self.runs_at(guest, self.b))
        self.b.json("resume", NAME)
        self.assert_goes_on(guest)
        self.b.json("stop", NAME)
        self.assert_empty(self.b)


def _add(name, kind):
    setattr(Memory, f"test_{name}MemoryArrivesAsItWas",
            lambda self: self.there_and_back("--kind", kind, "--size", 16))


for _name, _kind in _KINDS.items():
    _add(_name, _kind)


if __name__ == "__main__":
    unittest.main()
