"""examples/tiny_vmm between two processes: its guest goes on, there or here, and finds no error."""

import ctypes
import os
import pathlib
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

TINY_VMM = os.environ["TINY_VMM"] if "TINY_VMM" in os.environ else "tiny_vmm"
# Far beyond what anything here takes, also on a busy machine; only a failing test waits so long.
PATIENCE_S = 60.0
_PAUSE_S = 0.01
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def wait_for(condition, what):
    deadline = time.monotonic() + PATIENCE_S
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE_S:.0f} s for {what}")
        time.sleep(_PAUSE_S)


class TinyVmm:
    """A process of the example. What it says goes to a file: nobody has to read a pipe."""

    def __init__(self, folder, name, *words):
        self.path = os.path.join(folder, name + ".out")
        with open(self.path, "wb") as out:
            self.process = subprocess.Popen(
                [TINY_VMM, *words], stdin=subprocess.PIPE, stdout=out, stderr=out,
                preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))

    def said(self):
        with open(self.path, encoding="utf-8") as file:
            return file.read()

    def tell(self, *words):
        self.process.stdin.write((" ".join(words) + "\n").encode())
        self.process.stdin.flush()

    def wait_for(self, pattern, begin=0):
        """The first match of a whole line after `begin` characters of what it said."""
        expression = re.compile(pattern + r"\n", re.MULTILINE)

        def found():
            match = expression.search(self.said(), begin)
            if match is None and self.process.poll() is not None:
                match = expression.search(self.said(), begin)
                if match is None:
                    raise AssertionError(f"it ended without '{pattern}':\n{self.said()}")
            return match

        return wait_for(found, f"'{pattern}' of\n{self.said()}")

    def status(self):
        """(passes of each vCPU, errors of all, "running" or "paused", wrong pages)."""
        begin = len(self.said())
        self.tell("status")
        last = self.wait_for(r"guest: (\w+), (\d+) wrong pages(.*)", begin)
        if last[3]:
            raise AssertionError(f"the guest cannot go on: {last[3]}")
        counters = re.findall(r"^passes (\d+) errors (\d+)$", self.said()[begin:], re.MULTILINE)
        return ([int(passes) for passes, _ in counters], sum(int(errors) for _, errors in counters),
                last[1], int(last[2]))

    def wait_for_passes(self, least):
        """Waits until each vCPU has made more passes than `least` says, without any error."""

        def beyond():
            passes, errors, state, wrong = self.status()
            if errors or wrong:
                raise AssertionError(f"{errors} errors, {wrong} wrong pages:\n{self.said()}")
            return state == "running" and all(a > b for a, b in zip(passes, least)) and passes

        return wait_for(beyond, f"more passes than {least}")

    def end(self):
        """Its exit code, once it has ended by itself."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.said()}") from None

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()


class TinyVmmTest(unittest.TestCase):
    def setUp(self):
        try:
            os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            self.skipTest(f"needs /dev/kvm, which does not open ({error.strerror})")
        self.folder = tempfile.mkdtemp(prefix="tiny-vmm-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.vmms = []
        self.addCleanup(lambda: [vmm.kill() for vmm in self.vmms])

    def start(self, *words):
        vmm = TinyVmm(self.folder, str(len(self.vmms)), *words)
        self.vmms.append(vmm)
        return vmm

    def run_guest(self, *words):
        guest = self.start("run", "--vcpus", "2", *words)
        guest.wait_for("running")
        return guest, guest.wait_for_passes([20, 20])

    def receive(self, address, *words):
        target = self.start("receive", address, "--runtime-dir",
                            os.path.join(self.folder, f"journal{len(self.vmms)}"), *words)
        target.address = target.wait_for(r"listening on: (\S+)")[1]
        return target

    def move(self, source, target, passes):
        """Sends the guest; gives its passes at the target."""
        # The limit is not what is tested here, and a busy machine may not keep a tight one.
        source.tell("send", target.address, "max-downtime=20s")
        target.wait_for("running")
        self.assertEqual(source.end(), 0, source.said())
        return target.wait_for_passes([least + 20 for least in passes])

    def key(self):
        path = os.path.join(self.folder, f"key{secrets.token_hex(4)}")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        return path

    def test_the_guest_goes_on_at_the_target_and_leaves_that_as_well(self):
        source, passes = self.run_guest()
        middle = self.receive("unix:" + os.path.join(self.folder, "m"))
        passes = self.move(source, middle, passes)
        last = self.receive("127.0.0.1:0")
        self.move(middle, last, passes)
        last.tell("quit")
        self.assertEqual(last.end(), 0, last.said())

    def test_the_guest_moves_over_tls(self):
        key = self.key()
        source, passes = self.run_guest("--psk", key)
        self.move(source, self.receive("127.0.0.1:0", "--psk", key), passes)

    def test_a_target_that_does_not_trust_the_source_leaves_the_guest_with_it(self):
        source, passes = self.run_guest("--psk", self.key())
        target = self.receive("127.0.0.1:0", "--psk", self.key())
        source.tell("send", target.address)
        source.wait_for("the guest is here: failed")
        source.wait_for_passes([least + 20 for least in passes])

    def test_a_target_that_dies_leaves_the_guest_with_the_source(self):
        source, passes = self.run_guest()
        target = self.receive("127.0.0.1:0")
        # Too slow for the guest's memory to arrive before the target is killed.
        source.tell("send", target.address, "bandwidth=1M", "reconnect=0ms")
        source.wait_for("pages left: .*")
        target.kill()
        source.wait_for("the guest is here: failed")
        passes = source.wait_for_passes([least + 20 for least in passes])
        # And it can still be sent elsewhere.
        self.move(source, self.receive("127.0.0.1:0"), passes)

    def test_a_cancelled_migration_leaves_the_guest_with_the_source(self):
        source, passes = self.run_guest()
        target = self.receive("127.0.0.1:0")
        source.tell("send", target.address, "bandwidth=1M")
        source.wait_for("pages left: .*")
        source.tell("cancel")
        source.wait_for("the guest is here: cancelled")
        self.assertEqual(target.end(), 1, target.said())
        source.wait_for_passes([least + 20 for least in passes])

    def test_its_own_part_in_migration_is_under_200_lines(self):
        folder = pathlib.Path(os.environ["TINY_VMM_SOURCES"])
        lines = [line.strip() for path in folder.glob("migration.*")
                 for line in path.read_text(encoding="utf-8").splitlines()]
        code = [line for line in lines if line and not line.startswith("//")]
        self.assertGreater(len(code), 100)
        self.assertLess(len(code), 200)


if __name__ == "__main__":
    unittest.main()
