"""What a migration has of the kernel: each strategy and each tracker in turn, by one tree that moves on and on. CI runs
this in the nested lab (tests/lab), whose kernel keeps soft-dirty bits."""

import unittest

# It says where the others are. pylint: disable=wrong-import-order
from migrations import Migrations

_MIB = 32
_TREE = 2


class Kernel(Migrations):
    def skip_without(self, guest, tracker):
        """A host that has no such tracker says so before it looks for the target."""
        error = self.refusal(self.send(guest, "127.0.0.1:1", "--tracker", tracker))
        if error["code"] == "unsupported":
            self.skipTest(error["message"])

    def test_ATreeMovesOnByEachStrategyAndTracker(self):
        guest = self.guest("--size", _MIB, "--rate", 1, "--tree", _TREE, "--threads", 2, "--timers", tree=_TREE)
        for target, strategy, tracker, words in (
                (self.b, "precopy", "process-write-protect", ("--verify", "full")),
                (self.a, "hybrid", "soft-dirty", ("--tracker", "soft-dirty")),
                (self.b, "stop-copy", "process-write-protect", ()),
                (self.a, "precopy", "soft-dirty", ("--tracker", "soft-dirty", "--verify", "full"))):
            if tracker == "soft-dirty":
                self.skip_without(guest, tracker)
            report = self.move(guest, target, *words, strategy=strategy)
            with self.subTest(strategy=strategy, tracker=tracker):
                self.assert_goes_on(guest)
                self.assertEqual(report["guest"]["tracker"], tracker)
                if "full" in words:
                    self.assertEqual(report["integrity"]["full"], "equal")
                # All pages once, those that were written once more, and not all of them while the tree stood.
                self.assertLess(report["pages"]["raw"] + report["pages"]["zero"], 1.7 * report["pages"]["total"])


if __name__ == "__main__":
    unittest.main()
