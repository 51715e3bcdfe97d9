"""How fast images are written and read, beside a bare writer and reader of as many bytes, and beside QEMU."""
import os
import statistics

import qemu_file
import tables
from bed import PAGE, Case, bytes_of, evict, into_cache, warm

SIZES = (1024, 2048)
PLACES = ("disk", "tmpfs")
MIXED = "idle:fill=mixed,seed=1"
FAST = 0.8


def by_case(rows):
    found = {}
    for row in rows:
        found.setdefault(row["case"], []).append(row)
    return found


def middle(rows, of):
    values = [value for value in (of(row["raw"]) for row in rows) if value is not None]
    return statistics.median(values) if values else None


def _cases(settings, *kinds):
    return [Case(f"{mib / 1024:g}G {place} {compress}{' ' + kind if kind else ''}", mib=mib, place=place,
                 compress=compress, kind=kind, memory=settings.memory(mib))
            for mib in SIZES for place in PLACES for compress in ("none", "auto") for kind in kinds
            if not (place == "tmpfs" and kind == "cold")]


def _through(place):
    return ("--cached",) if place == "tmpfs" else ()


class Write:
    @staticmethod
    def cases(settings):
        return _cases(settings, "")

    @staticmethod
    def run(bed, case):
        about = case.about
        process = bed.guest(MIXED, about["memory"])
        path = bed.path(about["place"])
        if about["place"] == "tmpfs":
            warm(bytes_of(about["memory"]))
        report = bed.checkpoint(path, "--compress", about["compress"])
        os.unlink(path)
        stored = (report["pages"]["stored"] + report["pages"]["duplicate"]) * PAGE
        raw = bed.raw("--write", path, "--bytes", stored, *_through(about["place"]))
        bed.stop()
        process.wait()
        return {"report": report, "stored": stored, "raw": raw}

    @staticmethod
    def in_short(raw):
        return f"{raw['report']['total_ms']:.0f} ms, bare {raw['raw']['ms']:.0f} ms"

    @classmethod
    def show(cls, rows):
        print("Medians. A standing guest, 40 % zero, 35 % text-like, 25 % random. GB/s of pages that are not zero, flushed to")
        print("the disk at the end by both. bare: raw_disk writes as many bytes, by O_DIRECT on the disk.")
        _show_speeds(rows, ("pause", "cpu s"), lambda found: [
            tables.number(middle(found, lambda raw: raw["report"]["pause_ms"]), 0),
            tables.number(middle(found, lambda raw: raw["report"]["cpu_s"]), 2)],
                     f"written at least {FAST} x as fast as bare")


def _show_speeds(rows, columns, more, goal):
    lines, slow = [], []
    for name, found in by_case(rows).items():
        ours = middle(found, lambda raw: raw["stored"] / 1e6 / raw["report"]["total_ms"])
        bare = middle(found, lambda raw: raw["stored"] / 1e6 / raw["raw"]["ms"])
        ratio = middle(found, lambda raw: raw["raw"]["ms"] / raw["report"]["total_ms"])
        lines.append([name, len(found), tables.number(middle(found, lambda raw: raw["stored"] / 1e6), 0),
                      tables.number(middle(found, lambda raw: raw["report"]["bytes"]["file"] / 1e6), 0),
                      tables.number(middle(found, lambda raw: raw["report"]["total_ms"]), 0), tables.number(ours, 2),
                      tables.number(bare, 2), tables.number(ratio, 2), *more(found)])
        if ratio < FAST:
            slow.append(f"{name}: {ratio:.2f} x")
    tables.show(("case", "runs", "MB", "file MB", "ms", "GB/s", "bare", "x", *columns), lines)
    tables.goal(goal, not slow, slow)


class Read:
    @staticmethod
    def cases(settings):
        return _cases(settings, "cold", "cached")

    @staticmethod
    def run(bed, case):
        about = case.about
        image = bed.image(MIXED, about["memory"], "--compress", about["compress"], place=about["place"])
        plain = bed.image(MIXED, about["memory"], "--compress", "none", place=about["place"])["path"]
        cold = about["kind"] == "cold"
        ready = evict if cold else into_cache
        ready(image["path"])
        warm(bytes_of(about["memory"]))
        process = bed.restore(image["path"])
        report = bed.restored(process)
        bed.stop()
        process.wait()
        # As many bytes as the image without packing has.
        ready(plain)
        raw = bed.raw("--read", plain, *([] if cold else ["--cached"]))
        ready(plain)
        warm(os.path.getsize(plain))
        fresh = bed.raw("--read", plain, "--fresh", *([] if cold else ["--cached"]))
        pages = image["report"]["pages"]
        return {"report": report, "stored": (pages["stored"] + pages["duplicate"]) * PAGE, "raw": raw, "fresh": fresh}

    @staticmethod
    def in_short(raw):
        return (f"{raw['report']['total_ms']:.0f} ms, bare {raw['raw']['ms']:.0f} ms, "
                f"into new memory {raw['fresh']['ms']:.0f} ms")

    @classmethod
    def show(cls, rows):
        print("Medians. All of memory before the guest starts. cold: nothing of the file is in the page cache. bare:")
        print("raw_disk reads an unpacked image, by O_DIRECT where it is cold, again and again into the same few blocks; new:")
        print("into memory that nobody has had before, as a guest's is.")
        _show_speeds(rows, ("new", "x new", "cpu s"), lambda found: [
            tables.number(middle(found, lambda raw: raw["stored"] / 1e6 / raw["fresh"]["ms"]), 2),
            tables.number(middle(found, lambda raw: raw["fresh"]["ms"] / raw["report"]["total_ms"]), 2),
            tables.number(middle(found, lambda raw: raw["report"].get("cpu_s")), 2)],
                     f"read at least {FAST} x as fast as bare")


class Qemu:
    FASTER = 1.5
    CHANNELS = 2

    @classmethod
    def cases(cls, settings):
        # "stream": as migrations are, without mapped-ram: all that older ones can do.
        return [Case(f"{mib / 1024:g}G {way}", mib=mib, way=way, memory=settings.memory(mib))
                for mib in SIZES for way in ("mapped-ram", "mapped-ram direct-io", "stream")]

    @classmethod
    def run(cls, bed, case):
        about = case.about
        content, theirs, path = (bed.path(name=name) for name in ("content", "qemu.img", "own.img"))
        try:
            qemu_file.write_content(bed.settings, content, about["memory"])
            process = bed.guest(f"idle:fill=@{content}", _roomy(about["memory"]))
            report = bed.checkpoint(path, "--compress", "none")
            bed.stop()
            process.wait()
            saved = qemu_file.save(bed.settings, content, theirs, about["memory"], about["way"], cls.CHANNELS)
            evict(path, theirs)
            warm(bytes_of(about["memory"]))
            process = bed.restore(path)
            restored = bed.restored(process)
            bed.stop()
            process.wait()
            evict(theirs)
            warm(bytes_of(about["memory"]))
            loaded = qemu_file.load(bed.settings, content, theirs, about["memory"], about["way"], cls.CHANNELS)
            sizes = {"ours": os.stat(path).st_blocks * 512, "theirs": os.stat(theirs).st_blocks * 512}
        finally:
            for each in (content, theirs, path):
                if os.path.exists(each):
                    os.unlink(each)
        return {"report": report, "restored": restored, "saved": saved, "loaded": loaded, "sizes": sizes}

    @staticmethod
    def in_short(raw):
        return (f"write {raw['report']['total_ms']:.0f} to {raw['saved']['ms']:.0f} ms, "
                f"read {raw['restored']['total_ms']:.0f} to {raw['loaded']['ms']:.0f} ms")

    @classmethod
    def show(cls, rows):
        print("Medians in ms; QEMU's are its own total time, and until its target has said that it is through; flushed: with")
        print("a flush to the disk, which ours always makes and QEMU leaves to others. MB is what the files take.")
        lines, slow = [], []
        for name, found in by_case(rows).items():
            write = middle(found, lambda raw: raw["saved"]["flushed_ms"] / raw["report"]["total_ms"])
            plain = middle(found, lambda raw: raw["saved"]["ms"] / raw["report"]["total_ms"])
            read = middle(found, lambda raw: raw["loaded"]["ms"] / raw["restored"]["total_ms"])
            lines.append([name, len(found), *(tables.number(middle(found, of), 0) for of in (
                lambda raw: raw["report"]["total_ms"], lambda raw: raw["saved"]["ms"],
                lambda raw: raw["saved"]["flushed_ms"])), tables.number(plain, 2), tables.number(write, 2),
                          tables.number(middle(found, lambda raw: raw["restored"]["total_ms"]), 0),
                          tables.number(middle(found, lambda raw: raw["loaded"]["ms"]), 0), tables.number(read, 2),
                          tables.number(middle(found, lambda raw: raw["sizes"]["ours"] / 1e6), 0),
                          tables.number(middle(found, lambda raw: raw["sizes"]["theirs"] / 1e6), 0)])
            for what, ratio in (("written", plain), ("read", read)):
                if ratio < cls.FASTER:
                    slow.append(f"{name}, {what}: {ratio:.2f} x")
        tables.show(("case", "runs", "write", "QEMU", "flushed", "x", "x flushed", "read", "QEMU", "x", "MB", "QEMU's"),
                    lines)
        tables.goal(f"at least {cls.FASTER} x as fast as QEMU, without the flush", not slow, slow)


def _roomy(memory):
    """Such content with the hashes that the guest keeps of it, and what it needs itself."""
    return f"{(bytes_of(memory) >> 20) + 32}M"
