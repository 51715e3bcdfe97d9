"""The whole probe against a plain echo behind a link that is cut for a time that is known."""

import os
import subprocess
import sys
import time
import unittest

from harness import wait_for
from net_harness import ECHO, UNTIL_ALL_HAVE_COME, OnATestbed, Place, Probing
import testbed

# Slow enough for any machine, and a cut is many of it.
RATE = 200
INTERVAL_MS = 1000 / RATE
CUT_S = 0.5
KINDS = {"udp", "icmp", "udp6", "icmp6"}


class WholeProbe(OnATestbed):
    def echo(self, times=1):
        """A stands in for a guest."""
        self.bed.answer_instead("a")
        host = Place(self.scratch, self.bed, "a", sys.executable)
        self.hosts.append(host)
        echo = host.start("-B", ECHO, times)
        wait_for(lambda: echo.out or not echo.running(), "the echo to listen")
        self.assertTrue(echo.running(), echo)
        return echo

    def probe(self, *words):
        probing = Probing(self.client, testbed.GUEST_IP, testbed.GUEST_IP6, "--rate", RATE, *words)
        probing.wait_for_answers()
        return probing

    def test_LosesNothingOnAQuietLink(self):
        self.echo()
        report = self.probe(*UNTIL_ALL_HAVE_COME).end()
        self.assertEqual(set(report["kinds"]), KINDS)
        for kind, figures in report["kinds"].items():
            with self.subTest(kind):
                self.assertGreaterEqual(figures["sent"], 20)
                self.assertEqual(figures["answered"], figures["sent"])
                for none in ("lost", "duplicated", "unsent", "lost_in_a_row", "lost_ms"):
                    self.assertEqual(figures[none], 0)
                self.assertGreater(figures["rtt_ms"]["p50"], 0)
                self.assertLessEqual(figures["rtt_ms"]["p99"], figures["rtt_ms"]["max"])

    def test_TheGapIsAsLongAsTheLinkWasCut(self):
        self.echo()
        probing = self.probe()
        began = time.monotonic()
        self.bed.cut("a")
        cut = time.monotonic()
        # Not a wait for something: this is how long the link is cut.
        time.sleep(CUT_S)
        mending = time.monotonic()
        self.bed.mend("a")
        mended = time.monotonic()
        probing.wait_for_answers()
        report = probing.end()
        least_ms, most_ms = (mending - cut) * 1000, (mended - began) * 1000
        for kind, figures in report["kinds"].items():
            with self.subTest(kind):
                # What the sender left out was not there to be lost.
                late_ms = report["latest_ms"]
                self.assertGreaterEqual(figures["gap_ms"], least_ms - INTERVAL_MS - late_ms)
                self.assertGreaterEqual(figures["lost_ms"], least_ms - INTERVAL_MS - late_ms)
                self.assertGreaterEqual(figures["gap_ms"], figures["lost_ms"])
                self.assertGreaterEqual(figures["lost_in_a_row"],
                                        least_ms / INTERVAL_MS - report["skipped"] - 2)
                # On their way when it was cut, or asked just before it was mended.
                self.assertLessEqual(figures["lost"], most_ms / INTERVAL_MS + 4)
                self.assertEqual(figures["lost"], figures["lost_in_a_row"])
                self.assertEqual(figures["duplicated"], 0)

    def test_OneThatNeverComesBackIsMissedUntilTheEnd(self):
        echo = self.echo()
        probing = self.probe("--kind", "udp", "--linger", "10ms")
        echo.signal(15)
        echo.wait()
        ended = time.monotonic()
        wait_for(lambda: time.monotonic() > ended + CUT_S, "a while without an echo")
        report = probing.end()
        for figures in report["kinds"].values():
            self.assertGreaterEqual(figures["gap_ms"], CUT_S * 1000 - INTERVAL_MS - report["latest_ms"])
            self.assertGreater(figures["lost"], 0)

    def test_WhatIsAnsweredTwiceIsCounted(self):
        self.echo(times=2)
        kinds = self.probe(*UNTIL_ALL_HAVE_COME).end()["kinds"]
        for kind, figures in kinds.items():
            with self.subTest(kind):
                self.assertEqual(figures["lost"], 0)
                if kind.startswith("udp"):
                    # Of the last one it may not have waited for the second.
                    self.assertGreaterEqual(figures["duplicated"], figures["sent"] - 1)
                else:
                    self.assertEqual(figures["duplicated"], 0)

    def test_SaysWhatIsWrong(self):
        for words, code, said in ((("there",), 1, "is no IP address"), (("10.78.0.2", "--rate", "0"), 2, "--rate"),
                                  (("192.0.2.1",), 1, "no way to 192.0.2.1")):
            with self.subTest(words):
                run = self.client.start(*words)
                self.assertEqual(run.wait(), code, run)
                self.assertIn(said, run.err)


class Testbeds(OnATestbed):
    def test_NothingIsLeftWhateverEndsItsUser(self):
        for signal in (2, 15, 9):
            with self.subTest(signal):
                name = f"mgu{os.getpid()}"
                script = (f"import sys; sys.path.insert(0, {os.path.dirname(testbed.__file__)!r}); import testbed\n"
                          f"with testbed.Testbed({name!r}): print('up', flush=True); sys.stdin.read()")
                with subprocess.Popen([sys.executable, "-B", "-c", script], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as user:
                    self.assertEqual(user.stdout.readline(), b"up\n")
                    self.assertTrue(self.namespaces(name))
                    user.send_signal(signal)
                    user.wait()
                wait_for(lambda name=name: not self.namespaces(name), "its namespaces to go")

    def namespaces(self, prefix):
        return [name for name in os.listdir("/run/netns") if name.startswith(prefix)]

    def test_UpAndDownByCommand(self):
        name = f"mgv{os.getpid()}"
        command = [sys.executable, "-B", testbed.__file__]
        try:
            subprocess.run([*command, "up", name, "--lan-rate", "1gbit"], check=True)
            self.assertEqual(len(self.namespaces(name)), len(testbed.NAMESPACES))
            again = subprocess.run([*command, "up", name], check=False, capture_output=True, text=True)
            self.assertEqual(again.returncode, 1)
            self.assertIn("already", again.stderr)
            self.assertEqual(len(self.namespaces(name)), len(testbed.NAMESPACES), "the first one's are left alone")
        finally:
            for _ in range(2):
                subprocess.run([*command, "down", name], check=True)
        self.assertEqual(self.namespaces(name), [])


if __name__ == "__main__":
    unittest.main()
