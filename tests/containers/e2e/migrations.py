"""What the end-to-end tests of containers have in common: migrations by the command, and who has the guest."""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(_HERE, "..", "rig"), os.path.join(_HERE, "..", "..", "e2e")]
# pylint: disable=wrong-import-position
import moves  # noqa: E402
from container_case import TwoContainerHosts  # noqa: E402
from harness import DONE, FAILED, REFUSED, wait_for  # noqa: E402
from moves import NAME  # noqa: E402


# Of a move that is to come about however busy the machine is; how long stops are is another tests' subject.
PATIENT = ("--max-downtime", "60s")

# What a guest that writes takes in a tenth of a second; what is held or frozen takes nothing.
_PROGRESS_NS = 1_000_000


class Migrations(TwoContainerHosts):
    def move(self, guest, target, *words, **options):
        """Moves it, and sees that nothing of it is left where it was."""
        source, pid = guest.host, guest.pid
        report = moves.moved(self.bed, guest, target, *PATIENT, *words, **options)
        self.assertIsNone(report["error"])
        self.assertEqual(report["guest"]["kind"], "container")
        self.assertFalse(source.alive(pid), "it is at the source still")
        self.assert_empty(source)
        return report

    def assert_empty(self, host):
        """No process is left there."""
        wait_for(lambda: not host.all_pids(), f"the processes of {host.name} to end")

    def recv(self, *words, **options):
        return moves.recv(self.bed, self.b, *words, **options)

    def send(self, guest, address, *words, **options):
        return moves.send(self.bed, guest, address, *words, **options)

    def ended(self, process, *codes):
        self.assertIn(process.wait(), codes, process)
        return process

    def refusal(self, sender, *wanted, codes=(REFUSED, FAILED)):
        """The error of a `send` that moved nothing, which names what stands in its way and what to do."""
        error = self.ended(sender, *codes).json()["error"]
        for field in ("code", "side", "message", "remedy"):
            self.assertTrue(error[field], f"no {field}: {error}")
        for text in wanted:
            self.assertIn(text, error["message"] + " " + error["remedy"])
        return error

    def runs_at(self, guest, host):
        """Whether that copy of it makes progress. All copies write the same files; run time is each one's own."""
        if not host.alive(guest.pid):
            return False
        before = self.run_time_ns(guest, host)
        try:
            wait_for(lambda: self.run_time_ns(guest, host) > before + _PROGRESS_NS, "its progress", 3)
        except AssertionError:
            return False
        return host.alive(guest.pid)

    @staticmethod
    def run_time_ns(guest, host):
        try:
            with open(host.proc(guest.pid, "schedstat"), encoding="ascii") as file:
                return int(file.read().split()[0])
        except OSError:
            return 0


__all__ = ["DONE", "FAILED", "REFUSED", "NAME", "PATIENT", "Migrations", "moves", "wait_for"]
