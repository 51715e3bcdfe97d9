"""Second tries, with a real ctest: what they forgive and what not."""

import os
import subprocess
import tempfile
import unittest

_CHECK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "check-second-tries")
_PROJECT = """cmake_minimum_required(VERSION 3.25)
project(tries NONE)
enable_testing()
"""


class SecondTries(unittest.TestCase):
    def run_tests(self, tests, properties=""):
        """ctest's exit code, the check's, and what either said. `tests`: what the first try of each does; the second
        passes, but for a test that is called `never`."""
        with tempfile.TemporaryDirectory(prefix="tries-") as folder:
            with open(os.path.join(folder, "CMakeLists.txt"), "w", encoding="ascii") as file:
                file.write(_PROJECT)
                for number, (name, first) in enumerate(tests.items()):
                    tried = os.path.join(folder, f"tried{number}")
                    file.write(f'add_test(NAME "{name}" COMMAND sh -c [[\n'
                               f"[ -e {tried} ] && [ {name.split()[0]} != never ] && exit 0\n"
                               f"touch {tried}; {first}\n]])\n")
                file.write(properties)
            build = os.path.join(folder, "build")
            subprocess.run(["cmake", "-S", folder, "-B", build], check=True, capture_output=True)
            run = subprocess.run(["ctest", "--test-dir", build, "--output-on-failure", "-j2", "--repeat", "until-pass:2"],
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            printed = os.path.join(folder, "printed")
            with open(printed, "w", encoding="utf-8") as file:
                file.write(run.stdout)
            check = subprocess.run([_CHECK, os.path.join(build, "Testing", "Temporary", "LastTest.log"), printed],
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            return run.returncode, check.returncode, run.stdout, check.stdout

    def assert_unforgiven(self, first, why):
        code, checked, _, told = self.run_tests({"good": "exit 0", "bad  # GetParam() = 1": first})
        self.assertEqual((code, checked), (0, 1), told)
        self.assertIn(f"bad  # GetParam() = 1: {why}", told)

    def test_NothingIsToldWhereAllPassAtOnce(self):
        code, checked, _, told = self.run_tests({"good": "echo 'wrong memory'; exit 0"})
        self.assertEqual((code, checked, told), (0, 0, ""))

    def test_OneThatPassesThenIsToldWithItsFirstOutput(self):
        code, checked, printed, told = self.run_tests({"good": "exit 0", "late": "echo too late; exit 1"})
        self.assertEqual((code, checked), (0, 0), told)
        self.assertIn("100% tests passed, 0 tests failed out of 2", printed)
        self.assertIn("too late", printed)
        self.assertEqual(told, "\nPassed only when tried again:\nlate\n")

    def test_OneThatIsOutOfTimeIsTriedAgain(self):
        code, checked, _, told = self.run_tests(
            {"slow": "exec sleep 60"}, "set_tests_properties(slow PROPERTIES TIMEOUT 1)\n")
        self.assertEqual((code, checked), (0, 0), told)
        self.assertIn("\nslow\n", told)

    def test_OneThatFailsTwiceFailsTheRun(self):
        code, checked, printed, told = self.run_tests({"never": "exit 1", "good": "exit 0"})
        self.assertNotEqual(code, 0)
        self.assertEqual((checked, told), (0, ""), "this is ctest's to tell")
        self.assertIn("1 tests failed out of 2", printed)

    def test_WrongMemoryIsNeverForgiven(self):
        self.assert_unforgiven("echo \"AssertionError: wrong memory: {'verify_errors': 0}\"; exit 1", "it says 'wrong memory'")
        self.assert_unforgiven("echo '\"digest\": \"unequal\"'; exit 1", "it says 'unequal'")
        self.assert_unforgiven("echo '  later.verify_errors'; exit 1", "it says '.verify_errors'")

    def test_ReportsWithoutWrongMemoryAreForgiven(self):
        told = "{'verify_passes': 3, 'verify_errors': 0} {\"integrity\": {\"digest\": \"equal\"}, \"code\": \"link-lost\"}"
        code, checked, _, told = self.run_tests({"WrongPeerDiffers": f"cat <<'END'\n{told}\nEND\nexit 1"})
        self.assertEqual((code, checked), (0, 0), told)

    def test_ASanitizersReportIsNeverForgiven(self):
        self.assert_unforgiven("echo 'ERROR: AddressSanitizer: heap-use-after-free'; exit 1", "it says 'AddressSanitizer'")
        self.assert_unforgiven("echo 'a.cc:1:2: runtime error: overflow'; exit 1", "it says 'runtime error: '")

    def test_ACrashIsNeverForgiven(self):
        self.assert_unforgiven("kill -SEGV $$", "***Exception: SegFault")
        self.assert_unforgiven("kill -ABRT $$", "Subprocess aborted***Exception")
        self.assert_unforgiven("echo '`migrate run` (code -6)'; exit 1", "it says '(code -6)'")

    def test_MoreThanFiveAreNoAccident(self):
        five = {f"late{number}": "exit 1" for number in range(5)}
        self.assertEqual(self.run_tests(five)[:2], (0, 0))
        code, checked, _, told = self.run_tests({**five, "one more": "exit 1"})
        self.assertEqual((code, checked), (0, 1), told)
        self.assertIn("6 tests passed only when tried again", told)


if __name__ == "__main__":
    unittest.main()
