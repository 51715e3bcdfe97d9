"""What a guest that runs pays for its checkpoints, and what only the changes since the last one cost."""
import json
import os
import statistics
import time

import harness
import tables
from bed import PAGE, PATIENCE_S, Case, bytes_of, interrupted, sample, warm, work_rate
from suites_speed import by_case, middle

_CALM_S = 2.0


def _lost(calm, before, after, ms):
    """Share of the work that a calm guest would have done in so long."""
    lacking = calm * (after["s"] - before["s"]) - (after["work"] - before["work"])
    return lacking / (calm * ms / 1000)


def _calm_rate(host):
    early = sample(host)
    time.sleep(_CALM_S)
    return work_rate(early, sample(host))


class Live:
    GUESTS = {"200 MB/s": "writer:rate=200M,set={set}M,fill=random,seed=1",
              "unbound": "writer:rate=max,set={set}M,fill=random,seed=1", "idle": "idle:fill=random,seed=1"}
    PAUSE_MS = 5

    @classmethod
    def cases(cls, settings):
        return [Case(f"{mib // 1024}G {guest} {way}", guest=workload.format(set=256 // settings.cut), way=way,
                     memory=settings.memory(mib))
                for mib in (1024, 8192) for guest, workload in cls.GUESTS.items()
                for way in ("write-protect", "pre-copy")
                if way == "write-protect" or guest == "200 MB/s"]

    @classmethod
    def run(cls, bed, case):
        about = case.about
        process = bed.guest(about["guest"], about["memory"])
        calm = _calm_rate(bed.host)
        path = bed.path()
        try:
            if about["way"] == "pre-copy":
                return cls._pre_copy(bed, process, path)
            before = sample(bed.host)
            report = bed.checkpoint(path, "--live", "--compress", "none")
            after = sample(bed.host)
            bed.stop()
            process.wait()
        finally:
            if os.path.exists(path):
                os.unlink(path)
        return {"report": report, "lost": _lost(calm, before, after, report["total_ms"]), "pause_ms": report["pause_ms"],
                "total_ms": report["total_ms"], "bytes": report["bytes"]["file"], "calm": calm,
                "errors": after["verify_errors"]}

    @staticmethod
    def _pre_copy(bed, process, path):
        """The other way: as a migration, whose last pages are written while it stands. The guest ends with it."""
        socket = os.path.join(bed.scratch.path, "into.sock")
        target = bed.host.start("recv", "--listen", f"unix:{socket}", "--into", path, "--json")
        harness.wait_for(lambda: os.path.exists(socket) or not target.running(), "the listener")
        before = sample(bed.host)
        send = bed.host.send(f"unix:{socket}", "--compress", "none")
        rates = []
        while send.running():
            time.sleep(0.05)
            try:
                rates.append(sample(bed.host))
            except (OSError, AssertionError, ValueError, harness.http.client.HTTPException):
                break
        if send.wait(PATIENCE_S) != 0 or target.wait(PATIENCE_S) != 0:
            raise AssertionError(f"{send}\n{target}")
        process.wait(PATIENCE_S)
        report = send.json()
        last = rates[-1] if rates else before
        calm_s = last["s"] - before["s"]
        return {"report": report, "lost": None, "pause_ms": report["downtime_ms"], "total_ms": report["total_ms"],
                "bytes": os.path.getsize(path), "rate": work_rate(before, last) if calm_s > 0 else None,
                "errors": last["verify_errors"]}

    @staticmethod
    def in_short(raw):
        faults = raw["report"].get("faults", {})
        return (f"pause {raw['pause_ms']:.2f} ms, {raw['total_ms']:.0f} ms, lost {tables.share(raw['lost'])}, "
                f"{raw['bytes'] / 1e6:.0f} MB, faults {faults.get('count', 0)} p50 {faults.get('p50_us', 0):.0f} "
                f"p99 {faults.get('p99_us', 0):.0f} us")

    @classmethod
    def show(cls, rows):
        print("Medians. lost: of the work that the guest did before, for as long as the checkpoint took. faults: writes that")
        print("waited for their page to be copied. pre-copy: sent into a file, which stands for as long as a downtime.")
        lines, long = [], []
        for name, found in by_case(rows).items():
            pauses = [row["raw"]["pause_ms"] for row in found]
            phases = [tables.number(middle(found, lambda raw, key=key: raw["report"]["phases_ms"].get(key)), 2)
                      for key in ("quiesce", "state_save", "arm", "resume", "setup")]
            if "pre-copy" in name:
                phases = ["-"] * 5
            faults = [tables.number(middle(found, lambda raw, key=key: raw["report"]["faults"].get(key)), 0)
                      for key in ("count", "p50_us", "p99_us", "max_us")]
            lines.append([name, len(found), tables.number(statistics.median(pauses), 2), tables.number(max(pauses), 2),
                          *phases, tables.number(middle(found, lambda raw: raw["total_ms"]), 0),
                          tables.number(middle(found, lambda raw: raw["bytes"] / 1e6), 0),
                          tables.share(middle(found, lambda raw: raw["lost"])), *faults])
            if "pre-copy" not in name and statistics.median(pauses) >= cls.PAUSE_MS:
                long.append(f"{name}: {statistics.median(pauses):.2f} ms")
        tables.show(("case", "runs", "pause", "worst", "quiesce", "state", "arm", "resume", "setup", "total ms", "MB", "lost",
                     "faults", "p50 us", "p99 us", "max us"), lines)
        tables.goal(f"pause of a live checkpoint under {cls.PAUSE_MS} ms", not long, long)


class Incremental:
    """1 % of 1 GiB, side by side or all over it."""
    GUESTS = {"together": "writer:rate=50M,set={set}K,fill=random,seed=1",
              "scattered": "writer:rate={rate}K,set={all}M,fill=random,seed=1"}
    SHARE, BYTES, TIME = 0.01, 0.02, 0.1

    @classmethod
    def cases(cls, settings):
        mib = 1024 // settings.cut
        return [Case(f"{name}{' live' if live else ''}", memory=f"{mib}M", live=live,
                     guest=guest.format(set=int(mib * 256 * cls.SHARE) * 4, rate=int(mib * 1024 * cls.SHARE / 2),
                                        all=mib - 64))
                for name, guest in cls.GUESTS.items() for live in (False, True)]

    @classmethod
    def run(cls, bed, case):
        about = case.about
        process = bed.guest(about["guest"], about["memory"])
        words = ("--compress", "none", *(["--live"] if about["live"] else []))
        paths = [bed.path() for _ in range(3)]
        try:
            full = bed.checkpoint(paths[0], "--keep-tracking", *words)
            cls._wait_for_changes(bed, about["memory"])
            tracked = bed.checkpoint(paths[1], "--base", paths[0], *words)
            cls._wait_for_changes(bed, about["memory"])
            hashed = bed.checkpoint(paths[2], "--base", paths[1], *words)
            verified = bed.host.start("image", "verify", paths[2]).wait(PATIENCE_S)
            bed.stop()
            process.wait()
        finally:
            for path in paths:
                if os.path.exists(path):
                    os.unlink(path)
        return {"full": full, "tracker": tracked, "hashes": hashed, "errors": verified}

    @classmethod
    def _wait_for_changes(cls, bed, memory):
        """What is written while the checkpoint is asked for comes on top."""
        begin = sample(bed.host)["work"]
        wanted = bytes_of(memory) / PAGE * cls.SHARE
        harness.wait_for(lambda: sample(bed.host)["work"] >= begin + 0.97 * wanted, "the guest to write", PATIENCE_S)

    @staticmethod
    def in_short(raw):
        return ", ".join(f"{way} {raw[way]['pages']['stored']} pages, {raw[way]['bytes']['file'] / 1e6:.1f} MB, "
                         f"{raw[way]['total_ms']:.1f} ms" for way in ("full", "tracker", "hashes"))

    @classmethod
    def show(cls, rows):
        print("Medians, 1 GiB. changed: pages that were stored, of all. of full: bytes and time beside the full image of the")
        print("same guest just before.")
        lines, many, slow = [], [], []
        for name, found in by_case(rows).items():
            for way in ("tracker", "hashes"):
                def part(of, way=way, found=found):
                    return middle(found, lambda raw: of(raw[way], raw["full"]))
                wire = part(lambda one, full: one["bytes"]["file"] / full["bytes"]["file"])
                took = part(lambda one, full: one["total_ms"] / full["total_ms"])
                lines.append([f"{name}, {way}", len(found), found[0]["raw"][way]["changed_by"],
                              tables.share(part(lambda one, _: one["pages"]["stored"] / one["pages"]["total"])),
                              tables.number(part(lambda one, _: one["bytes"]["file"] / 1e6)), tables.share(wire),
                              tables.number(part(lambda one, _: one["total_ms"])),
                              tables.number(part(lambda _, full: full["total_ms"])), tables.share(took),
                              tables.number(part(lambda one, _: one["pause_ms"]), 2)])
                if wire >= cls.BYTES:
                    many.append(f"{name}, {way}: {tables.share(wire)}")
                if way == "tracker" and took >= cls.TIME:
                    slow.append(f"{name}, {way}: {tables.share(took)}")
        tables.show(("case", "runs", "by", "changed", "MB", "of full", "ms", "full ms", "of full", "pause ms"), lines)
        tables.goal(f"under {tables.share(cls.BYTES)} of the full image's bytes", not many, many)
        tables.goal(f"under {tables.share(cls.TIME)} of its time, with the tracker", not slow, slow)


class Series:
    GUEST = "writer:rate=50M,set={set}M,fill=random,seed=1"
    EVERY_MS = 200

    @classmethod
    def cases(cls, settings):
        return [Case(f"every {cls.EVERY_MS} ms{', ' + place if place != 'disk' else ''}", memory=settings.memory(1024),
                     guest=cls.GUEST.format(set=256 // settings.cut), place=place, seconds=10 / settings.cut) for place in ("disk", "tmpfs")]

    @classmethod
    def run(cls, bed, case):
        about = case.about
        process = bed.guest(about["guest"], about["memory"])
        calm = _calm_rate(bed.host)
        path = bed.path(about["place"], "series")
        if about["place"] == "tmpfs":
            warm(3 * bytes_of(about["memory"]))
        try:
            series = bed.host.start("checkpoint", "vm:web", "--to", path, "--every", f"{cls.EVERY_MS}ms", "--compress",
                                    "none", "--json")
            # The first one is the whole guest: another measurement's.
            harness.wait_for(lambda: os.path.exists(path) or not series.running(), "the first image", PATIENCE_S)
            before = sample(bed.host)
            time.sleep(about["seconds"])
            after = sample(bed.host)
            report = interrupted(series)
            bed.stop()
            process.wait()
            verified = bed.host.start("image", "verify", path).wait(PATIENCE_S)
        finally:
            folder = os.path.dirname(path)
            for name in os.listdir(folder):
                if name.startswith("series"):
                    os.unlink(os.path.join(folder, name))
        return {"report": report, "lost": _lost(calm, before, after, 1000 * (after["s"] - before["s"])),
                "errors": after["verify_errors"] + verified}

    @staticmethod
    def in_short(raw):
        return json.dumps({key: raw["report"][key] for key in ("checkpoints", "period_ms", "pause_ms", "written_ms",
                                                               "guest_held")}) + f", lost {tables.share(raw['lost'])}"

    @classmethod
    def show(cls, rows):
        print("Medians, 1 GiB, a writer of 50 MB/s in 256 MB; ms. The first, full one counts in what is reported of all. lost:")
        print("of the guest's work, from the first image on; held: as reported.")
        lines, late = [], []
        for name, found in by_case(rows).items():
            period = middle(found, lambda raw: raw["report"]["period_ms"])
            lines.append([name, len(found), tables.number(middle(found, lambda raw: raw["report"]["checkpoints"]), 0),
                          tables.number(period, 0),
                          *(tables.number(middle(found, lambda raw, key=key: raw["report"]["pause_ms"][key]), 2)
                            for key in ("p50", "p99", "max")),
                          *(tables.number(middle(found, lambda raw, key=key: raw["report"]["written_ms"][key]), 0)
                            for key in ("p50", "max")),
                          tables.number(middle(found, lambda raw: raw["report"]["bytes"]["file"] / 1e6), 0),
                          tables.share(middle(found, lambda raw: raw["lost"])),
                          tables.share(middle(found, lambda raw: raw["report"]["guest_held"]))])
            if period > 1.1 * cls.EVERY_MS:
                late.append(f"{name}: {period:.0f} ms")
        tables.show(("case", "runs", "images", "period", "pause p50", "p99", "max", "written p50", "max", "MB", "lost",
                     "held"), lines)
        tables.goal("the period that was asked for, within 10 %", not late, late)
