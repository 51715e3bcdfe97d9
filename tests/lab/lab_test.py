"""The lab itself: that it is what it says, and that it leaves nothing behind."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import build_lab
from cpio import Archive
from gtest_output import SkippedTests

_HERE = os.path.dirname(os.path.abspath(__file__))
_RUN = [sys.executable, "-B", os.path.join(_HERE, "run_in_lab.py"), "--no-fetch"]
_PATIENCE_S = 240


class Lab(unittest.TestCase):
    def setUp(self):
        self._scratch = tempfile.mkdtemp(prefix="lab-test-")
        self.addCleanup(shutil.rmtree, self._scratch)

    def _start(self, *words):
        # A group of its own, as a shell would give it.
        return subprocess.Popen([*_RUN, *words], env=dict(os.environ, TMPDIR=self._scratch), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                start_new_session=True)

    def _ended(self, process):
        out, err = process.communicate(timeout=_PATIENCE_S)
        if process.returncode == build_lab.SKIPPED:
            print(out)
            self.skipTest(out)
        self.assertEqual(self._machines(), [])
        self.assertEqual(os.listdir(self._scratch), [])
        return process.returncode, out, err

    def _run(self, *words):
        return self._ended(self._start(*words))

    def _machines(self):
        """Processes that were told the scratch folder: QEMU's, by its initramfs."""
        mark, found = f"-initrd\0{self._scratch}/".encode(), []
        for entry in os.listdir("/proc"):
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    if mark in file.read():
                        found.append(int(entry))
            except OSError:
                continue
        return found

    def test_is_a_recent_kernel_with_the_kvm_of_amd(self):
        code, out, err = self._run(
            "--", "sh", "-c", "uname -r && ls /sys/module/kvm_amd/parameters/npt && test -c /dev/kvm "
            "&& cat /sys/module/kvm_amd/parameters/npt && grep -c '\\bsvm\\b' /proc/cpuinfo && dmesg | grep -i kvm")
        print(out, err)
        self.assertEqual(code, 0)
        lines = out.splitlines()
        self.assertGreaterEqual(tuple(map(int, re.findall(r"\d+", lines[0])[:2])), (6, 12))
        self.assertEqual(lines[2:4], ["Y", "2"])
        self.assertRegex(err, r"up in [\d.]+ s")

    def test_passes_on_output_and_exit_code(self):
        code, out, _ = self._run("--env", "WHAT=a b'c", "--file", __file__, "--", "sh", "-c",
                                 f'printf "%s\\n" "$WHAT"; wc -c <{__file__}; echo no end of line >&2; '
                                 'printf "lab: exit 0"; exit 37')
        self.assertEqual(code, 37)
        self.assertEqual(out, f"a b'c\n{os.path.getsize(__file__)}\nno end of line\nlab: exit 0")

    def test_a_time_limit_ends_the_machine(self):
        code, out, err = self._run("--limit", "2", "--", "sh", "-c", "echo begun; sleep 1000")
        self.assertEqual((code, out), (124, "begun\n"))
        self.assertIn("--limit", err)

    def test_a_machine_that_dies_is_no_exit_code(self):
        code, _, err = self._run("--", "sh", "-c", "echo b >/proc/sysrq-trigger; sleep 1000")
        self.assertEqual(code, 125)
        self.assertIn("no exit code", err)

    def test_the_machine_goes_with_its_runner(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            process = self._start("--", "sleep", "1000")
            deadline = time.monotonic() + _PATIENCE_S
            while not self._machines() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(number)
            if number == signal.SIGTERM:
                self.assertEqual(self._ended(process)[0], 125)
                continue
            process.communicate(timeout=_PATIENCE_S)
            while self._machines() and time.monotonic() < deadline:
                time.sleep(0.01)
            self.assertEqual(self._machines(), [])

    def test_what_is_missing_is_said(self):
        code, _, err = self._run("--file", "/nowhere/at-all", "--", "true")
        self.assertEqual(code, 125)
        self.assertIn("/nowhere/at-all", err)


class Parts(unittest.TestCase):
    def test_skipped_cases_are_found_in_pieces_of_output(self):
        text = b"[ RUN      ] A.b/c\nx.cc:1: Skipped\nwhy\n[  SKIPPED ] A.b/c (3 ms)\n[  SKIPPED ] 1 test\n"
        for may_skip, found in ((None, []), ("^$", ["A.b/c"]), ("b/", [])):
            tests = SkippedTests(may_skip)
            for at in range(len(text)):
                tests.feed(text[at:at + 1])
            self.assertEqual(tests.forbidden(), found)

    def test_an_archive_is_what_cpio_reads(self):
        file = io.BytesIO()
        archive = Archive(file)
        archive.file("/a/b", b"12345", 0o755)
        archive.file("/a/b", b"not again")
        archive.symlink("/a/c", "b")
        archive.close()
        data = file.getvalue()
        self.assertEqual(len(data) % 4, 0)
        names, at = [], 0
        while at < len(data):
            self.assertEqual(data[at:at + 6], b"070701")
            fields = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
            name = data[at + 110:at + 110 + fields[11] - 1].decode()
            content = at + (110 + fields[11] + 3) // 4 * 4
            names.append((name, oct(fields[1]), data[content:content + fields[6]]))
            at = content + (fields[6] + 3) // 4 * 4
        self.assertEqual(names, [("a", "0o40755", b""), ("a/b", "0o100755", b"12345"),
                                 ("a/c", "0o120777", b"b"), ("TRAILER!!!", "0o0", b"")])


if __name__ == "__main__":
    unittest.main()
