"""Tests of the independent checker: each golden image has the verdict that the C++ reader gives it."""

import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE / "golden"


def check(*arguments):
    return subprocess.run([sys.executable, "-B", str(HERE / "verify_image.py"), *map(str, arguments)],
                          capture_output=True, text=True, check=False)


class GoldenImages(unittest.TestCase):
    def test_have_their_verdicts(self):
        lines = (GOLDEN / "verdicts.txt").read_text().splitlines()
        self.assertGreaterEqual(len(lines), 10)
        for name, verdict in (line.split() for line in lines):
            if name == "flipped-frame.img" and shutil.which("zstd") is None:
                continue
            done = check(GOLDEN / name)
            self.assertEqual(done.returncode, 0 if verdict == "valid" else 1, name + done.stderr)
            last = done.stdout.splitlines()[-1]
            self.assertEqual(last.split(":")[0], verdict, name + ": " + last)
            if verdict == "integrity":
                self.assertIn("byte ", last)

    def test_a_parent_elsewhere_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            child = shutil.copy(GOLDEN / "incremental.img", folder)
            self.assertIn("not-found", check(child).stdout)
            done = check("--parent", GOLDEN / "full.img", child)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
