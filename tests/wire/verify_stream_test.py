"""Tests of the verifier: the hash against the C library's vectors, and every golden stream."""

import pathlib
import re
import shutil
import subprocess
import sys
import unittest

sys.dont_write_bytecode = True
import verify_stream  # noqa: E402
from stream_format import TYPES, Violation, read_capture  # noqa: E402
from xxh3 import xxh3_64  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE / "golden"
SPECIFICATION = HERE.parent.parent / "docs" / "wire-format.md"


class Xxh3(unittest.TestCase):
    def test_equals_the_c_library_in_every_length_class(self):
        data = bytes(((i * i * 7 + i * 3 + 1) >> 3) & 255 for i in range(8192))
        secret = bytes(((i * 37 + 11) ^ (i >> 2)) & 255 for i in range(192))
        lengths = set()
        for line in (GOLDEN / "xxh3_vectors.txt").read_text().splitlines():
            length, plain, keyed = line.split()
            length = int(length)
            lengths.add(length)
            self.assertEqual(xxh3_64(data[:length]), int(plain, 16), length)
            self.assertEqual(xxh3_64(data[:length], secret), int(keyed, 16), length)
        for needed in (0, 1, 3, 4, 8, 9, 16, 17, 128, 129, 240, 241):
            self.assertIn(needed, lengths)
        self.assertGreater(max(lengths), 4096)


class GoldenStreams(unittest.TestCase):
    def test_valid_ones_are_valid(self):
        files = sorted((GOLDEN / "valid").iterdir())
        self.assertGreaterEqual(len(files), 4)
        for file in files:
            with self.subTest(file.name):
                verify_stream.verify(file.read_bytes())

    def test_each_invalid_one_is_refused_for_its_own_reason(self):
        files = sorted((GOLDEN / "invalid").iterdir())
        self.assertGreaterEqual(len(files), 15)
        for file in files:
            with self.subTest(file.name):
                with self.assertRaises(Violation) as caught:
                    verify_stream.verify(file.read_bytes())
                self.assertEqual(caught.exception.rule, file.name.split(".")[0])

    def test_cut_streams_pass_only_where_a_cut_is_expected(self):
        whole = (GOLDEN / "valid" / "stop_copy.capture").read_bytes()
        frames = list(read_capture(whole))
        total = sum(len(data) for _, _, data in frames)
        for keep in range(0, total, 61):
            capture, left = b"MIGCAP1\n", keep
            for connection, direction, data in frames:
                data = data[:left]
                left -= len(data)
                capture += (connection.to_bytes(2, "little") + bytes([direction]) +
                            len(data).to_bytes(4, "little") + data)
            verify_stream.verify(capture, cut=True)
            with self.assertRaises(Violation):
                verify_stream.verify(capture)

    def test_bytes_may_come_in_any_pieces(self):
        whole = (GOLDEN / "valid" / "precopy.capture").read_bytes()
        verifier = verify_stream.Verifier()
        for connection, direction, data in read_capture(whole):
            for at in range(0, len(data), 1000):
                verifier.feed(connection, direction, data[at:at + 1000])
        verifier.finish(cut=False)
        self.assertIn("released", verifier.summary())

    def test_any_flipped_byte_is_noticed(self):
        whole = bytearray((GOLDEN / "valid" / "discarded.capture").read_bytes())
        for at in range(8, len(whole), 13):
            whole[at] ^= 0x20
            with self.assertRaises(Violation, msg="byte %d" % at):
                verify_stream.verify(bytes(whole))
            whole[at] ^= 0x20


class Specification(unittest.TestCase):
    def test_has_the_same_types(self):
        rows = re.findall(r"^\| (0x[0-9a-f]{4}) \| ([A-Z_]+) \| .* \| (yes|no|either) \|$",
                          SPECIFICATION.read_text(), re.MULTILINE)
        words = {"no": "unkeyed", "yes": "keyed", "either": "either"}
        self.assertEqual({int(number, 16): (name, words[keyed]) for number, name, keyed in rows},
                         {number: (name, keyed) for number, (name, _, keyed) in TYPES.items()})

    def test_shows_bytes_that_are_in_the_golden_stream(self):
        capture = (GOLDEN / "valid" / "stop_copy.capture").read_bytes()
        records = [data for _, _, data in read_capture(capture)]
        appendix = SPECIFICATION.read_text().split("## Appendix A")[1].split("## Appendix B")[0]
        blocks = re.findall(r"```\n(.*?)```", appendix, re.DOTALL)
        self.assertEqual(len(blocks), 3)
        for block in blocks:
            lines = re.findall(r"^([0-9a-f]{4})  +((?:[0-9a-f]{2} )*[0-9a-f]{2})\b", block,
                               re.MULTILINE)
            self.assertGreater(len(lines), 1)
            shown = [(int(at, 16), bytes.fromhex(octets)) for at, octets in lines]
            self.assertTrue(any(all(record[at:at + len(octets)] == octets for at, octets in shown)
                                for record in records), block)


class CommandLine(unittest.TestCase):
    def run_it(self, *arguments, environment=None):
        return subprocess.run([sys.executable, "-B", str(HERE / "verify_stream.py"), *arguments],
                              capture_output=True, text=True, check=False, env=environment)

    def test_says_what_failed_at_which_byte(self):
        good = str(GOLDEN / "valid" / "stop_copy.capture")
        bad = str(GOLDEN / "invalid" / "page-hash.flipped_page_byte.capture")
        result = self.run_it(good)
        self.assertEqual(result.returncode, 0)
        self.assertIn("valid: ", result.stdout)
        result = self.run_it(good, bad)
        self.assertEqual(result.returncode, 1)
        self.assertIn("[page-hash] connection 1, source to target, byte 123", result.stdout)
        self.assertEqual(self.run_it("/nonexistent").returncode, 1)
        self.assertEqual(self.run_it().returncode, 2)


    def test_says_what_it_could_not_look_into(self):
        packed = str(GOLDEN / "valid" / "packed.capture")
        with_zstd = self.run_it(packed)
        self.assertEqual(with_zstd.returncode, 0, with_zstd.stdout)
        without = self.run_it(packed, environment={"PATH": "/nonexistent"})
        self.assertEqual(without.returncode, 0, without.stdout)
        self.assertIn("NOT LOOKED INTO: 3 packed batches", without.stdout)
        if shutil.which("zstd"):
            self.assertNotIn("NOT LOOKED INTO", with_zstd.stdout)


if __name__ == "__main__":
    unittest.main()
