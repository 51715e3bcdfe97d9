"""Guests of all sorts arrive whole: memory equal in full, self-check at 0 errors, counters going on."""

import signal
import unittest

from harness import DONE, PRECOPY, TwoHosts, wait_for

REPORT_KEYS = {
    "schema", "version", "outcome", "strategy", "session", "options", "guest", "host", "attempts",
    "total_ms", "downtime_ms", "phases_ms", "rounds", "pages", "bytes", "bandwidth_mib_s", "cpu_s",
    "predicted", "faults", "integrity", "capacity_mib_s", "failed_attempts", "reconnects", "missing", "takeover", "forwarded", "error"}
PHASES = {"setup", "rounds", "quiesce", "final_sync", "state_save", "final_pages", "state_load",
          "handover", "start", "verify", "postcopy"}
# From the guest's last instruction to its first; they are disjoint and sum to the downtime.
DOWNTIME_PHASES = ("quiesce", "final_sync", "state_save", "final_pages", "state_load", "handover",
                   "start")
ROUND_KEYS = {"round", "start_ms", "pages", "bytes", "ms", "dirty_after", "dirty_rate", "throttle",
              "throttle_by_vcpu", "hot_after", "predicted"}
PAGES = {"total", "raw", "zero", "delta", "duplicate", "compressed", "unchanged", "redirtied",
         "demand", "pushed"}

WORKLOADS = {
    "Idle": "idle",
    "Counter": "counter",
    "Sweep": "writer:rate=50M,set=16M,pattern=sweep",
    "Uniform": "writer:rate=50M,set=16M,pattern=uniform",
    "Zipf": "writer:rate=50M,set=16M,pattern=zipf",
    "Burst": "writer:rate=50M,set=16M,pattern=burst",
    "ReaderBesideWriter": "writer:rate=20M,set=8M+reader:set=8M,fill=mixed,seed=7",
}


# What --tracker makes of a guest without a ring, and what the report calls it.
TRACKERS = {
    "auto": "kvm-bitmap",
    "log": "kvm-bitmap",
    "ring": "kvm-ring",
    "write-protect": "write-protect",
    "hash": "content-hash",
}


class Moves(TwoHosts):
    def check_report_shape(self, report):
        self.assertEqual(set(report), REPORT_KEYS)
        self.assertEqual(set(report["phases_ms"]), PHASES)
        self.assertEqual(set(report["pages"]), PAGES)
        self.assertEqual(set(report["guest"]),
                         {"name", "kind", "vcpus", "memory_bytes", "state", "tracker"})
        self.assertEqual(set(report["host"]), {"kernel", "cpu"})
        self.assertEqual(set(report["bytes"]), {"guest", "wire"})
        self.assertEqual(set(report["predicted"]), {"downtime_ms", "downtime_p95_ms", "total_ms", "total_p95_ms"})
        self.assertEqual(set(report["faults"]), {"count", "p50_us", "p99_us", "max_us", "local", "stall_ms"})
        for entry in report["rounds"]:
            self.assertEqual(set(entry), ROUND_KEYS)

    def check_figures(self, report, memory_bytes):
        self.assertEqual(report["integrity"]["digest"], "equal")
        self.assertEqual(report["integrity"]["full"], "equal")
        # Off when no page was clean at the switchover.
        self.assertIn(report["integrity"]["sampled"], ("equal", "off"))
        self.assertEqual(report["pages"]["total"] * 4096, memory_bytes)
        self.assertGreater(report["bytes"]["wire"], 0)
        self.assertGreater(report["total_ms"], 0)
        self.assertGreaterEqual(report["attempts"], 1)
        self.assertTrue(report["session"])
        self.assertTrue(report["host"]["cpu"])
        if report["downtime_ms"] is not None:
            phases = sum(report["phases_ms"][phase] for phase in DOWNTIME_PHASES)
            self.assertAlmostEqual(phases, report["downtime_ms"], delta=0.01 + phases * 0.001)

    def move(self, workload, vcpus, strategy, *options, tracker="auto"):
        memory = "64M"
        source = self.a.run(workload, "--tracker", tracker, memory=memory, vcpus=vcpus)
        target = self.b.recv("--once", "--json")
        if workload != "idle":
            wait_for(lambda: self.work(self.a) > 0, "the guest to work")
        before = self.a.stats()
        how = PRECOPY if strategy == "precopy" else ("--strategy", strategy)
        send = self.a.send(target.address, *how, "--verify", "full", *options)
        report = self.report(send, "done", DONE)
        self.assertFalse(self.a.answers(), "the source's socket is gone before send returns")
        self.assertTrue(self.b.answers(), "the target answers before the source is told")
        self.check_report_shape(report)
        self.check_figures(report, 64 << 20)
        self.assertEqual(report["strategy"], strategy)
        self.assertEqual(report["guest"]["tracker"], TRACKERS[tracker])
        self.assertEqual(report["guest"]["vcpus"], vcpus)
        self.assertEqual(report["guest"]["state"], "running")
        self.ended(source, DONE)
        self.check_goes_on(before, workload)
        self.stop(self.b, target)
        arrival = target.json()
        self.check_report_shape(arrival)
        self.assertEqual(arrival["outcome"], "done")
        self.assertEqual(arrival["session"], report["session"])
        self.assert_nothing_left()
        return report

    def check_goes_on(self, before, workload):
        """At the target, from where it was and not from the start."""
        self.assertEqual(self.b.state(), "running")
        after = self.b.stats()
        self.assertGreaterEqual(after["uptime_ms"], before["uptime_ms"])
        self.assertGreaterEqual(after["pages_written"], before["pages_written"])
        self.assertGreaterEqual(after["verify_passes"], before["verify_passes"])
        for was, now in zip(before["vcpus"], after["vcpus"]):
            self.assertGreaterEqual(now["work"], was["work"])
        if workload != "idle":
            for index in range(len(after["vcpus"])):
                wait_for(lambda: self.b.stats()["vcpus"][index]["work"] > after["vcpus"][index]["work"],
                         f"vCPU {index} to go on")
        if "writer" in workload or "reader" in workload:
            # Two passes: the second began and ended here.
            wait_for(lambda: self.b.stats()["verify_passes"] >= after["verify_passes"] + 2,
                     "the guest to check its memory")
        self.assert_memory_right(self.b)


class Journeys(TwoHosts):
    """Guests that come paused, go back, or move again and again."""

    WRITER = "writer:rate=20M,set=8M,seed=3"

    def send_there(self, here, listener, *options):
        return self.report(here.send(listener.address, "--verify", "full", *options), "done", DONE)

    def test_APausedGuestArrivesPausedAndRunsOnWhenResumed(self):
        source = self.a.run(self.WRITER)
        wait_for(lambda: self.work(self.a) > 0, "the guest to work")
        self.a.json("pause", "web")
        before = self.work(self.a)
        target = self.b.recv("--once")
        report = self.send_there(self.a, target)
        self.assertIsNone(report["downtime_ms"])
        self.assertEqual(report["guest"]["state"], "paused")
        self.ended(source, DONE)
        self.assertEqual(self.b.state(), "paused")
        self.assertEqual(self.work(self.b), before, "nothing ran on the way")
        self.b.json("resume", "web")
        self.assert_runs(self.b)
        self.stop(self.b, target)
        self.assert_nothing_left()

    def test_AGuestGoesThereAndBackAndThereAgain(self):
        source = self.a.run(self.WRITER)
        at_b = self.b.recv("--once")
        self.send_there(self.a, at_b)
        self.ended(source, DONE)
        at_a = self.a.recv("--once")
        self.send_there(self.b, at_a)
        self.ended(at_b, DONE)
        self.assert_absent(self.b)
        self.assert_runs(self.a)
        again = self.b.recv("--once")
        self.send_there(self.a, again)
        self.ended(at_a, DONE)
        self.assert_runs(self.b)
        self.stop(self.b, again)
        self.assert_nothing_left()

    def test_FiveMovesInARowThroughListenersThatStay(self):
        self.a.run(self.WRITER)
        listeners = [self.b.recv(), self.a.recv()]
        hosts = [self.a, self.b]
        written = 0
        for move in range(5):
            here, there = hosts[move % 2], hosts[(move + 1) % 2]
            strategy = (PRECOPY, ("--strategy", "stop-copy"))[move % 2]
            self.send_there(here, listeners[move % 2], *strategy)
            self.assert_absent(here)
            self.assert_runs(there)
            now = there.stats()["pages_written"]
            self.assertGreaterEqual(now, written)
            written = now
        self.stop(self.b)
        for listener in listeners:
            listener.signal(signal.SIGTERM)
            self.ended(listener, DONE)
        self.assert_nothing_left()

    def test_EachHostTracksTheGuestItsOwnWay(self):
        """`recv --tracker` is about the next journey, also through a listener that stays."""
        self.skip_without("ring", "write-protect")
        source = self.a.run(self.WRITER, "--tracker", "ring", vcpus=2)
        listener = self.b.recv("--tracker", "write-protect")
        there = self.send_there(self.a, listener)
        self.assertEqual(there["guest"]["tracker"], "kvm-ring")
        self.ended(source, DONE)
        at_a = self.a.recv("--once", "--tracker", "ring")
        back = self.send_there(self.b, at_a)
        self.assertEqual(back["guest"]["tracker"], "write-protect")
        self.assert_runs(self.a)
        at_b = self.b.recv("--once")
        again = self.send_there(self.a, at_b)
        self.assertEqual(again["guest"]["tracker"], "kvm-ring")
        self.ended(at_a, DONE)
        self.assert_runs(self.b)
        self.stop(self.b, at_b)
        listener.signal(signal.SIGTERM)
        self.ended(listener, DONE)
        self.assert_nothing_left()

    def test_TwoGuestsArriveAtOneListenerAtTheSameTime(self):
        names = ("web", "db")
        sources = [self.a.run(self.WRITER, name=name, memory="32M") for name in names]
        listener = self.b.recv()
        sends = [self.a.send(listener.address, "--bandwidth", "400Mbit", name=name)
                 for name in names]
        for send, source, name in zip(sends, sources, names):
            self.report(send, "done", DONE)
            self.ended(source, DONE)
            self.assert_runs(self.b, name)
            self.stop(self.b, name=name)
        listener.signal(signal.SIGTERM)
        self.ended(listener, DONE)
        self.assert_nothing_left()


def _add_moves():
    for strategy in ("stop-copy", "precopy"):
        for name, workload in WORKLOADS.items():
            for vcpus in (2,) if "+" in workload else (1, 2):
                # The same work on each vCPU: its memory is shared among them.
                guest = workload if "+" in workload or vcpus == 1 else f"{workload}+{workload}"

                def case(self, guest=guest, vcpus=vcpus, strategy=strategy):
                    self.move(guest, vcpus, strategy)

                how = "StopCopy" if strategy == "stop-copy" else "Precopy"
                setattr(Moves, f"test_{how}{name}With{vcpus}Vcpus", case)


_add_moves()


def _add_trackers():
    """Not the whole product: two workloads that write from two vCPUs, beside rounds."""
    for tracker in ("log", "ring", "write-protect", "hash"):
        for name in ("Uniform", "Burst"):

            def case(self, tracker=tracker, workload=WORKLOADS[name]):
                self.skip_without(tracker)
                self.move(f"{workload}+{workload}", 2, "precopy", tracker=tracker)

            how = tracker.title().replace("-", "")
            setattr(Moves, f"test_TrackedBy{how}Precopy{name}", case)


_add_trackers()


if __name__ == "__main__":
    unittest.main()
