"""Guests with a processor of several hosts: made by doctor, applied by run, carried along by send."""

import re

from harness import DONE, FAILED, REFUSED, USAGE, TwoHosts

# CPUID 7.0 EDX bit 24 (amx-tile): with its state of 8 KiB, which nothing here enables.
_AMX_TILE = 1 << 24


def word(text, place):
    found = re.search(rf"^word {re.escape(place)} (0x[0-9a-f]+)", text, re.MULTILINE)
    return int(found.group(1), 16)


def with_word(text, place, bits):
    return re.sub(rf"^word {re.escape(place)} .*$", f"word {place} {bits:#x}", text,
                  flags=re.MULTILINE)


class CpuBaseline(TwoHosts):
    def baseline(self, *files):
        doctor = self.a.start("doctor", "--cpu-baseline", *files)
        self.ended(doctor, DONE)
        return doctor.out

    def file(self, text):
        path = self.a.scratch.new_file("cpu")
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        return path

    def test_AGuestOfABaselineThatHidesFeaturesMoves(self):
        whole = self.baseline()
        # As of a host that lacks half of the features of two leaves.
        other = with_word(whole, "0x7.0 ebx", word(whole, "0x7.0 ebx") & 0x55555555)
        other = with_word(other, "0x7.0 ecx", word(whole, "0x7.0 ecx") & 0x0000ffff)
        common = self.baseline(self.file(other))
        self.assertEqual(word(common, "0x7.0 ebx"), word(other, "0x7.0 ebx"))
        self.assertEqual(word(common, "0x7.0 ecx"), word(other, "0x7.0 ecx"))
        source = self.a.run("writer:rate=20M,set=8M,fill=mixed,seed=3+reader:set=8M", "--cpu",
                            self.file(common), vcpus=2)
        target = self.b.recv("--once")
        report = self.report(self.a.send(target.address, "--verify", "full"), "done", DONE)
        self.assertEqual(report["integrity"]["full"], "equal")
        self.ended(source, DONE)
        self.assert_runs(self.b)
        self.stop(self.b, target)
        self.assert_nothing_left()

    def test_TheBaselineOfThisHostIsItsOwn(self):
        own = self.baseline()
        path = self.file(own)
        self.assertEqual(self.baseline(path, path), own)
        self.assertEqual(self.a.json("doctor", "--cpu-baseline")["cpu_baseline"], own)

    def test_ABaselineThisHostCannotGiveIsRefusedWithWhatItLacks(self):
        own = self.baseline()
        if word(own, "0x7.0 edx") & _AMX_TILE:
            more = re.sub(r"^vendor .*$", "vendor SomebodyElse", own, flags=re.MULTILINE)
            lacks = "processor make"
        else:
            more = with_word(own, "0x7.0 edx", word(own, "0x7.0 edx") | _AMX_TILE)
            lacks = "amx-tile"
        error = self.a.json("run", "web", "--memory", "16M", "--cpu", self.file(more),
                            code=REFUSED)["error"]
        self.assertEqual(error["code"], "incompatible")
        self.assertIn(lacks, error["message"])
        self.assertTrue(error["remedy"])
        self.assert_nothing_left()

    def test_FilesThatAreNoBaselinesAreRefused(self):
        own = self.baseline()
        for text, why in (("", "lacks"), ("exit\n", "line 1"), (own + "colour blue\n", "line"),
                          (own + own, "line")):
            with self.subTest(text=text[-20:]):
                path = self.file(text)
                for words in (("run", "web", "--cpu", path), ("doctor", "--cpu-baseline", path)):
                    error = self.a.json(*words, code=USAGE)["error"]
                    self.assertIn(why, error["message"])
                    self.assertIn(path, error["message"])
                    self.assertTrue(error["remedy"])
        missing = self.a.json("run", "web", "--cpu", "/nowhere/pool.cpu", code=FAILED)["error"]
        self.assertEqual(missing["code"], "not-found")
        newer = self.file(own.replace("migrate-cpu-baseline 1", "migrate-cpu-baseline 2", 1))
        error = self.a.json("run", "web", "--cpu", newer, code=FAILED)["error"]
        self.assertEqual(error["code"], "version-mismatch")
        other = self.file(re.sub(r"^vendor .*$", "vendor SomebodyElse", own, flags=re.MULTILINE))
        error = self.a.json("doctor", "--cpu-baseline", other, code=REFUSED)["error"]
        self.assertEqual(error["code"], "incompatible")
        self.assert_nothing_left()
