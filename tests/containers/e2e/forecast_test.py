"""What moving a tree would come to is told before it moves, and asking leaves no trace on it."""

import os
import signal
import unittest

# It says where the others are. pylint: disable=wrong-import-order
from migrations import DONE, NAME, REFUSED, Migrations, moves, wait_for

# Far above what a stop takes on any machine here, and far below a bandwidth at which it would be no matter.
_DOWNTIME_MOST_MS = 5000


class Forecasts(Migrations):
    def ask(self, *words, code=DONE):
        process = self.a.start(*words, "--json", *moves.criu_words())
        self.ended(process, code)
        return process.json()

    def assert_plausible(self, forecast, rate_mb):
        """Of a guest that writes so much."""
        trace = forecast["trace"]
        self.assertGreater(trace["samples"], 10)
        self.assertGreater(trace["dirty_bytes_per_s"], 0)
        self.assertLess(trace["dirty_bytes_per_s"], 10e6 * rate_mb)
        for row in forecast["strategies"]:
            downtime = row["downtime_ms"]
            self.assertGreater(downtime["p50"], trace["pause_ms"], row)
            self.assertLessEqual(downtime["p50"], downtime["p95"], row)
            self.assertLess(downtime["p95"], _DOWNTIME_MOST_MS, row)

    def test_TheDoctorSaysWhichDowntimeMovingATreeWouldHave(self):
        guest = self.guest("--size", 32, "--tree", 2, tree=2)
        found = self.ask("doctor", f"pid:{guest.pid}", "--bandwidth", "10Gbit", "--duration", "1s")
        self.assertTrue(found["movable"], found)
        self.assert_plausible(found["forecast"], 2 * 20)
        self.assertEqual({row["max_downtime_ms"] for row in found["forecast"]["strategies"]}, {300.0})
        looked = self.ask("doctor", f"pid:{guest.pid}", "--no-forecast")
        self.assertIsNone(looked["forecast"])
        self.assertEqual(looked["findings"], found["findings"])
        # Nothing is left of it: the tree moves as any other.
        self.assert_goes_on(guest)
        self.move(guest, self.b)
        self.assert_goes_on(guest)

    def test_ATreeThatCannotMoveHasNoForecastButReasons(self):
        guest = self.guest("--size", 16)
        stopped = self.a.start_guest("sh", "-c", "exec 3</dev/kmsg; sleep 1000")
        found = self.ask("doctor", f"pid:{stopped}", code=REFUSED)
        self.assertFalse(found["movable"])
        self.assertIsNone(found["forecast"])
        self.assertTrue([finding for finding in found["findings"] if finding["blocks"] and finding["remedy"]], found)
        self.assert_goes_on(guest)

    def test_PredictingATreeRecordsATraceThatCanBeReplayed(self):
        guest = self.guest("--size", 32)
        path = self.scratch.new_file("trace")
        forecast = self.ask("predict", f"pid:{guest.pid}", "--bandwidth", "1Gbit,10Gbit", "--duration", "1s",
                            "--record", path)
        self.assert_plausible(forecast, 20)
        self.assertTrue(forecast["keeps_limit"], forecast)
        cases = self.a.json("what-if", path, "--bandwidth", "1Gbit", "--strategy", "precopy")["cases"]
        self.assertTrue(cases[0]["simulation"]["done"], cases)
        self.assert_goes_on(guest)

    def test_PredictingEndsAtASignalAndLeavesTheTree(self):
        guest = self.guest("--size", 32)
        process = self.a.start("predict", f"pid:{guest.pid}", "--bandwidth", "1Gbit", "--duration", "10m",
                               *moves.criu_words())
        wait_for(lambda: os.path.exists(os.path.join(self.a.folder, f"pid-{guest.pid}.lock")) or
                 not process.running(), "it to have begun")
        process.signal(signal.SIGTERM)
        process.wait()
        self.assert_goes_on(guest)
        self.move(guest, self.b)
        self.assert_goes_on(guest)

    def test_ATreeIsSentInTheBackground(self):
        guest = self.guest("--size", 64)
        target = self.recv()
        started = self.ended(self.send(guest, target.address, "--detach", "--bandwidth", "200Mbit"), DONE).json()
        name = f"pid-{guest.pid}"
        self.assertEqual((started["name"], started["target"]), (name, target.address))
        # It is under way, and is followed from elsewhere.
        follower = self.a.start("status", name, "--follow", "--json")
        self.ended(follower, DONE)
        guest.moved_to(self.b)
        self.assert_goes_on(guest)
        self.assert_empty(self.a)
        self.assertFalse([file for file in os.listdir(self.a.folder) if file.endswith(".log")])
        self.assertEqual(self.b.state(NAME), "running")


if __name__ == "__main__":
    unittest.main()
