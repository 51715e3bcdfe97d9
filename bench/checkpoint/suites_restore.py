"""How soon a restored guest runs, has read what it works with, and what many of one image take."""
import os
import time

import harness
import tables
from bed import PAGE, PATIENCE_S, Case, available, bytes_of, evict, into_cache, sample, warm
from suites_speed import by_case, middle


class Lazy:
    GUEST = "idle:fill=random,seed=1"
    SIZES = (1024, 2048, 8192)
    START_MS, SPREAD_MS = 20, 5

    @classmethod
    def cases(cls, settings):
        return [Case(f"{mib // 1024}G {kind}", memory=settings.memory(mib), kind=kind, mib=mib)
                for mib in cls.SIZES for kind in ("cold", "cached") if (mib, kind) != (cls.SIZES[-1], "cached")]

    @classmethod
    def run(cls, bed, case):
        about = case.about
        path = bed.image(cls.GUEST, about["memory"], "--compress", "none")["path"]
        (evict if about["kind"] == "cold" else into_cache)(path)
        warm(bytes_of(about["memory"]))
        process = bed.restore(path, "--lazy")
        report = bed.restored(process)
        bed.stop()
        process.wait()
        return {"report": report, "answers_ms": process.answers_ms}

    @staticmethod
    def in_short(raw):
        return f"started {raw['report']['started_ms']:.1f} ms, answers {raw['answers_ms']:.1f}, {raw['report']['phases_ms']}"

    @classmethod
    def show(cls, rows):
        print("Medians in ms. started: by its report; answers: from the command's start until its control socket says that")
        print("the guest runs, loading the program and the asking included.")
        lines, late, starts = [], [], {}
        for name, found in by_case(rows).items():
            started = middle(found, lambda raw: raw["report"]["started_ms"])
            answers = middle(found, lambda raw: raw["answers_ms"])
            starts.setdefault(found[0]["about"]["kind"], []).append(answers)
            lines.append([name, len(found), tables.number(started), tables.number(answers),
                          tables.number(max(row["raw"]["answers_ms"] for row in found)),
                          *(tables.number(middle(found, lambda raw, key=key: raw["report"]["phases_ms"][key]))
                            for key in ("open", "prepare", "memory", "state_load", "start")),
                          tables.number(middle(found, lambda raw: raw["report"]["total_ms"]), 0),
                          *(tables.number(middle(found, lambda raw, key=key: raw["report"]["faults"][key]), 0)
                            for key in ("count", "p50_us", "p99_us"))])
            if answers >= cls.START_MS:
                late.append(f"{name}: {answers:.1f} ms")
        tables.show(("case", "runs", "started", "answers", "worst", "open", "prepare", "memory", "state", "start", "all there",
                     "faults", "p50 us", "p99 us"), lines)
        apart = [f"{kind}: {min(found):.1f} to {max(found):.1f} ms" for kind, found in starts.items()
                 if max(found) - min(found) > cls.SPREAD_MS]
        tables.goal(f"the guest runs {cls.START_MS} ms after the command's start", not late, late)
        tables.goal(f"whatever its size: within {cls.SPREAD_MS} ms", not apart, apart)


class WorkingSet:
    """64 MB of 1 GiB, read as fast as the guest can."""
    SET_MIB = 64
    GUEST = "reader:set={set}M,rate=max,fill=random,seed=1"
    BETTER, NEAR = 3, 1.3
    WAYS = ("lazy cold", "lazy cached", "prefetch cold", "prefetch cached", "eager cached", "eager cold")
    # Between two looks at its counters.
    _LOOK_S = 0.002

    @classmethod
    def cases(cls, settings):
        return [Case(way, memory=settings.memory(1024), set=cls.SET_MIB // settings.cut) for way in cls.WAYS]

    @classmethod
    def run(cls, bed, case):
        about = case.about
        image = bed.image(cls.GUEST.format(set=about["set"]), about["memory"], "--compress", "none")
        how, kind = case.name.split()
        if "set" not in image:
            cls._record(bed, image, about)
        paths = [image["path"], *([image["set"]] if how == "prefetch" else [])]
        cls._ready(about, (evict if kind == "cold" else into_cache), *paths)
        words = {"lazy": ("--lazy",), "eager": (), "prefetch": ("--lazy", "--prefetch", image["set"])}[how]
        return cls._time(bed, image, about, words)

    @staticmethod
    def _ready(about, how, *paths):
        for path in paths:
            how(path)
        warm(bytes_of(about["memory"]))

    @classmethod
    def _record(cls, bed, image, about):
        """Until the first pass is through. Later the guest goes on to what is no part of its set: it checks all of its
        memory bit by bit."""
        process = bed.restore(image["path"], "--paused")
        bed.restored(process)
        image["work"] = sample(bed.host)["work"]
        bed.stop()
        process.wait()
        path = bed.path(name="working.set")
        cls._ready(about, evict, image["path"])
        process = bed.restore(image["path"], "--lazy", "--record", path, "--record-for", f"{int(PATIENCE_S)}s")
        cls._pass(bed, image, about, process)
        # It has touched what it needs: that ends the recording.
        bed.stop()
        process.wait(PATIENCE_S)
        image["set"], image["set_bytes"] = path, os.path.getsize(path)

    @classmethod
    def _pass(cls, bed, image, about, process):
        """When the guest has read its set once, in ms since the command's start."""
        wanted = image["work"] + (about["set"] << 20) // PAGE
        last = sample(bed.host)
        while last["work"] < wanted:
            if time.monotonic() > process.begun_s + PATIENCE_S:
                raise AssertionError(str(process))
            time.sleep(cls._LOOK_S)
            last = sample(bed.host)
        return 1000 * (last["s"] - process.begun_s)

    @classmethod
    def _time(cls, bed, image, about, words):
        process = bed.restore(image["path"], *words)
        read_ms = cls._pass(bed, image, about, process)
        report = bed.restored(process)
        errors = sample(bed.host)["verify_errors"]
        bed.stop()
        process.wait()
        return {"report": report, "answers_ms": process.answers_ms, "read_ms": read_ms, "errors": errors,
                "set_bytes": image["set_bytes"]}

    @staticmethod
    def in_short(raw):
        pages = raw["report"]["pages"]
        return (f"read once after {raw['read_ms']:.0f} ms, record {raw['set_bytes'] / 1e6:.1f} MB, demand "
                f"{pages['demand']}, prefetched {pages['prefetched']}, background {pages['background']}")

    @classmethod
    def show(cls, rows):
        print("Medians in ms. read once: from the command's start until the guest has read its 64 MB once, as fast as it can.")
        print("all there: until all of its memory was. cold: neither image nor record is in the page cache.")
        lines, found = [], by_case(rows)
        for name, of in found.items():
            lines.append([name, len(of), tables.number(middle(of, lambda raw: raw["read_ms"]), 0),
                          tables.number(middle(of, lambda raw: raw["report"]["started_ms"]), 0),
                          tables.number(middle(of, lambda raw: raw["report"]["total_ms"]), 0),
                          *(tables.number(middle(of, lambda raw, key=key: raw["report"]["pages"][key]), 0)
                            for key in ("demand", "prefetched", "background")),
                          *(tables.number(middle(of, lambda raw, key=key: raw["report"]["faults"][key]), 0)
                            for key in ("count", "p50_us", "p99_us"))])
        tables.show(("case", "runs", "read once", "started", "all there", "demand", "prefetched", "background", "faults",
                     "p50 us", "p99 us"), lines)
        if not set(cls.WAYS) <= set(found):
            return
        took = {way: middle(of, lambda raw: raw["read_ms"]) for way, of in found.items()}
        better = took["lazy cold"] / took["prefetch cold"]
        tables.goal(f"with prefetch at least {cls.BETTER} x better than lazily without, cold", better >= cls.BETTER,
                    [f"{better:.2f} x"])
        near = took["prefetch cold"] / took["eager cached"]
        tables.goal(f"with prefetch, cold, at most {cls.NEAR} x of all of memory first from the cache", near <= cls.NEAR,
                    [f"{near:.2f} x"])


class Fanout:
    GUEST = "idle:fill=random,seed=1"
    GUESTS, MIB = 20, 256
    WAYS = {"eager": (), "lazy": ("--lazy",), "lazy, no background": ("--lazy", "--no-background"),
            "mapped": ("--mapped",)}

    @classmethod
    def cases(cls, settings):
        return [Case(way, memory=f"{cls.MIB // settings.cut}M", guests=cls.GUESTS // settings.cut) for way in cls.WAYS]

    @classmethod
    def run(cls, bed, case):
        about = case.about
        path = bed.image(cls.GUEST, about["memory"], "--compress", "none")["path"]
        into_cache(path)
        warm(bytes_of(about["memory"]) * about["guests"])
        free = available()
        names = [f"web{i}" for i in range(about["guests"])]
        begin = time.monotonic()
        processes = [bed.host.start("restore", path, "--name", name, *cls.WAYS[case.name], "--json") for name in names]
        harness.wait_for(lambda: all(bed.host.answers(name) or not process.running() for name, process in
                                     zip(names, processes)), "the guests to answer", PATIENCE_S)
        started = 1000 * (time.monotonic() - begin)
        if "--no-background" not in cls.WAYS[case.name]:
            for process in processes:
                bed.restored(process)
        took = 1000 * (time.monotonic() - begin)
        harness.wait_for(lambda: all(bed.host.stats(name)["uptime_ms"] > 0 for name in names), "the guests to run")
        used = [bed.smaps(process.pid) for process in processes]
        free -= available()
        for name in names:
            bed.host.start("stop", name)
        for process in processes:
            process.wait(PATIENCE_S)
        return {"started_ms": started, "complete_ms": took, "used": used, "host": free}

    @staticmethod
    def in_short(raw):
        count = len(raw["used"])
        return (f"{count} guests after {raw['started_ms']:.0f} ms, Pss {sum(one['Pss'] for one in raw['used']) / 1e6:.0f} MB, "
                f"host {raw['host'] / 1e6:.0f} MB")

    @classmethod
    def show(cls, rows):
        print(f"Medians, {cls.GUESTS} idle guests of {cls.MIB} MiB from one image in the page cache, ms and MB. each: of one")
        print("guest's process; own: of that, nobody else's; all: what they take together (Pss); host: less memory available.")
        lines = []
        for name, found in by_case(rows).items():
            def used(of, found=found):
                return middle(found, lambda raw: sum(of(one) for one in raw["used"]) / 1e6)
            count = len(found[0]["raw"]["used"])
            lines.append([name, len(found), count, tables.number(middle(found, lambda raw: raw["started_ms"]), 0),
                          tables.number(middle(found, lambda raw: raw["complete_ms"]), 0),
                          tables.number(used(lambda one: one["Rss"]) / count),
                          tables.number(used(lambda one: one["Private_Clean"] + one["Private_Dirty"]) / count),
                          tables.number(used(lambda one: one["Pss"]), 0),
                          tables.number(middle(found, lambda raw: raw["host"] / 1e6), 0)])
        tables.show(("case", "runs", "guests", "answer", "complete", "each", "own", "all", "host"), lines)
