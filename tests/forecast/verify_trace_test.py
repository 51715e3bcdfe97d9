"""Tests of the verifier: it reads the golden trace as it was made, and notices damage."""

import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
import verify_trace  # noqa: E402

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden" / "full.trace"


class GoldenTrace(unittest.TestCase):
    def test_is_read_as_it_was_made(self):
        trace = verify_trace.verify(GOLDEN.read_bytes())
        self.assertEqual(trace["name"], "web")
        self.assertEqual(trace["tracker"], "kvm-ring")
        self.assertTrue(trace["rearms_in_collect"])
        self.assertEqual((trace["vcpus"], trace["pages"]), (2, 260))
        self.assertEqual((trace["pause"], trace["collect"], trace["state_save"]), (210, 45, 130))
        self.assertEqual((trace["state_bytes"], trace["page_wire_bytes"]), (9000, 4113))
        self.assertEqual(trace["empty"], [(10, 20), (200, 60)])
        self.assertEqual(trace["samples"], [
            (20100, [31, 0], [(0, 1), (150, 30)]),
            (19900, [0, 0], []),
            (20000, [100, 30], [(page, 1) for page in range(0, 260, 2)])])

    def test_any_flipped_byte_is_noticed(self):
        whole = bytearray(GOLDEN.read_bytes())
        for at in range(len(whole)):
            whole[at] ^= 0x20
            with self.assertRaises(verify_trace.Violation, msg=at):
                verify_trace.verify(bytes(whole))
            whole[at] ^= 0x20

    def test_any_cut_is_noticed(self):
        whole = GOLDEN.read_bytes()
        for keep in range(len(whole)):
            with self.assertRaises(verify_trace.Violation, msg=keep):
                verify_trace.verify(whole[:keep])


if __name__ == "__main__":
    unittest.main()
