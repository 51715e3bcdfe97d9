"""The e2e harness with its hosts on a testbed: namespaces for A, B and a client with its probe."""

import json
import os
import signal
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
# pylint: disable=wrong-import-position
from harness import PRECOPY, Host, Scratch, wait_for  # noqa: E402
import testbed  # noqa: E402

PROBE = os.environ.get("MIGRATE_PROBE", "probe")
_HERE = os.path.dirname(os.path.abspath(__file__))
ECHO, CAPTURE, ASK = (os.path.join(_HERE, name) for name in ("echo.py", "capture.py", "ask.py"))
# Of a guest on a host's tap.
NET = f"tap=guest,mac={testbed.GUEST_MAC},ip={testbed.GUEST_IP},ip={testbed.GUEST_IP6}"


# Of a probe that is to lose nothing: on a busy machine an answer may be late, and lost is only what never comes.
UNTIL_ALL_HAVE_COME = ("--linger", "30s")


class Place(Host):
    """A namespace of a testbed, where a program runs."""

    def __init__(self, scratch, bed, name, program):
        super().__init__(scratch, name)
        self.prefix = bed.inside(name)
        self.program = program


class NetHost(Host):
    """A host that listens on the migrations' link and whose guest is on the tap."""

    def __init__(self, scratch, bed, name):
        super().__init__(scratch, name)
        self.prefix = bed.inside(name)
        self.address = testbed.LINK[name]

    def recv(self, *words, limits=()):
        return super().recv("--insecure", *words, limits=limits)

    def send(self, target, *words, name="web"):
        return super().send(target, "--insecure", *PRECOPY, *words, name=name)


class Capturing:
    """What leaves a host by its uplink from the guest, until it is ended."""

    def __init__(self, scratch, bed, host):
        place = Place(scratch, bed, host, sys.executable)
        self._process = place.start("-B", CAPTURE, "uplink", testbed.GUEST_MAC)
        wait_for(lambda: self._process.out or not self._process.running(), "the capture to begin")

    def end(self):
        """[nanoseconds, kind, number] of each frame, in their order."""
        self._process.signal(signal.SIGTERM)
        if self._process.wait() != 0:
            raise AssertionError(f"the capture failed: {self._process}")
        found = json.loads(self._process.out.splitlines()[-1])
        assert found["missed"] == 0, "the capture has missed frames"
        return found["frames"]


class Asking:
    """Broadcast ARP requests for the guest from the client's namespace, until it is ended."""

    def __init__(self, scratch, bed):
        place = Place(scratch, bed, "client", sys.executable)
        self._process = place.start("-B", ASK, "lan", testbed.GUEST_IP)
        wait_for(lambda: self._process.out or not self._process.running(), "the first request")

    def end(self):
        """The senders of all requests, in their order, as numbers."""
        self._process.signal(signal.SIGTERM)
        if self._process.wait() != 0:
            raise AssertionError(f"asking failed: {self._process}")
        told = json.loads(self._process.out.splitlines()[-1])
        return range(told["first"], told["first"] + told["asked"])


class Probing:
    """A probe that runs in the client's namespace until it is ended, and then its figures."""

    def __init__(self, client, *words):
        self._process = client.start(*words, "--live")

    def answered(self):
        """How many answers of the first kind were there at the last count."""
        lines = self._process.err.splitlines()
        return int(lines[-1].split()[1]) if lines and lines[-1].endswith("ms") else 0

    def wait_for_answers(self, more=20):
        """Until there are so many more than now."""
        before = self.answered()
        wait_for(lambda: self.answered() >= before + more or not self._process.running(), "answers to the probe")
        if not self._process.running():
            raise AssertionError(f"the probe has ended: {self._process}")

    def end(self):
        self._process.signal(signal.SIGTERM)
        return self.wait()

    def wait(self):
        """Its report, when it has ended."""
        if self._process.wait() != 0:
            raise AssertionError(f"the probe failed: {self._process}")
        return self._process.json()


class OnATestbed(unittest.TestCase):
    """A test case with a testbed `bed` of its own, and `client`, whose program is the probe."""

    def setUp(self):
        why = testbed.problem()
        if why:
            self.skipTest(why)
        self.bed = testbed.Testbed(f"mgt{os.getpid()}")
        self.scratch = Scratch()
        self.hosts = []
        self.addCleanup(self._remove_all)
        self.bed.__enter__()
        self.client = Place(self.scratch, self.bed, "client", PROBE)

    def _remove_all(self):
        for process in self.scratch.processes:
            process.kill()
        # Its guard is a child of this process, too, and the scratch folder's end waits for all of them.
        self.bed.__exit__()
        self.scratch.remove(self.hosts)
