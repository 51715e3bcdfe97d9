"""How long guests stand, how long it takes, and what hybrid makes of fast writers."""
import figures
import lazy_moves
import moves
import tables
from moves import Case
from suite_uniform import by_case

LINKS = ("1gbit", "10gbit", moves.UNSHAPED)


def lazily(settings, *more, strategy="postcopy"):
    return (*settings.send, "--strategy", strategy, *more)


def middle(rows, of):
    return figures.middle(rows, lambda row: of(row["raw"]["send"]))


class Downtime:
    SIZES = (1024, 2048, 8192)
    GUESTS = {"idle": "idle:fill=random,seed=1", "writer": "writer:rate=200M,set=256M,fill=random,seed=1"}
    SPREAD, RATIO = 0.2, 1.5

    @classmethod
    def cases(cls, settings):
        return [Case(f"{name} {mib / 1024:g}G", guest, lazily(settings), settings.run, memory=settings.memory(mib),
                     link="10gbit", kind=name, mib=mib, floor=mib == cls.SIZES[0])
                for name, guest in cls.GUESTS.items() for mib in cls.SIZES]

    @classmethod
    def show(cls, rows):
        print("Medians in ms. floor: pause, save, load and start of an idle guest, each alone, and 1.5 round trips over")
        print("loopback, with the kick before it (as bench/floor prints it) and without, as downtime_ms is.")
        floors = [row["raw"]["floor"] for row in rows if row["raw"]["floor"]]
        floor = figures.middle(floors, lambda each: each["floor_ms"]["sum"])
        bare = figures.middle(floors, lambda each: each["floor_ms"]["sum"] - each["floor_ms"]["kick"]["p50"])
        lines, far, apart = [], [], []
        for guest in cls.GUESTS:
            medians = {}
            for name, found in by_case([row for row in rows if row["about"]["kind"] == guest]).items():
                downtime = medians[name] = middle(found, lambda report: report["downtime_ms"])
                phases = [tables.number(middle(found, lambda report, key=key: report["phases_ms"][key]), 2) for key in
                          ("quiesce", "final_sync", "state_save", "final_pages", "state_load", "handover", "start")]
                lines.append([name, len(found), tables.number(downtime, 2), tables.number(floor, 2),
                              tables.number(downtime / floor if floor else None, 2), tables.number(bare, 2),
                              tables.number(downtime / bare if bare else None, 2), *phases])
                if not floor or downtime > cls.RATIO * floor:
                    far.append(f"{name}: {tables.number(downtime, 2)} to {tables.number(floor, 2)} ms")
            if medians and max(medians.values()) > (1 + cls.SPREAD) * min(medians.values()):
                apart.append(f"{guest}: {min(medians.values()):.2f} to {max(medians.values()):.2f} ms")
        tables.show(("guest", "runs", "downtime", "floor", "x", "no kick", "x", "quiesce", "sync", "save", "pages", "load",
                     "handover", "start"), lines)
        tables.goal(f"downtime within {100 * cls.SPREAD:.0f} % between sizes", not apart, apart)
        tables.goal(f"downtime within {cls.RATIO} x the floor", not far, far)


class Total:
    GUESTS = {"idle": "idle:fill=random,seed=1", "writer": "writer:rate=50M,set=64M,fill=random,seed=1"}
    TIME, BYTES = 1.15, 1.02

    @classmethod
    def cases(cls, settings):
        return [Case(f"{link} {name} {strategy}", guest, lazily(settings, strategy=strategy), settings.run,
                     memory=settings.memory(1024 if link == "1gbit" else 2048), link=link, strategy=strategy)
                for link in LINKS for name, guest in cls.GUESTS.items() for strategy in ("stop-copy", "postcopy")]

    @classmethod
    def show(cls, rows):
        print("Medians; ms, and MB/s on the wire. cpu: seconds of both sides' processes, of the migration.")
        lines, slow, many = [], [], []
        whole = {name: middle(found, lambda report: report["total_ms"]) for name, found in by_case(rows).items()}
        for name, found in by_case(rows).items():
            wire = middle(found, lambda report: report["bytes"]["wire"] / report["guest"]["memory_bytes"])
            stopped = whole.get(name.replace("postcopy", "stop-copy"))
            ratio = whole[name] / stopped if stopped else None
            lines.append([name, len(found), tables.number(whole[name], 0), tables.number(ratio, 2),
                          tables.number(middle(found, lambda report: report["phases_ms"]["postcopy"]), 0),
                          tables.number(middle(found, lambda report: report["bytes"]["wire"] / report["total_ms"] / 1e3), 0),
                          tables.number(wire, 3), tables.number(middle(found, lambda report: report["cpu_s"]), 2),
                          tables.number(figures.middle(found, lambda row: row["raw"]["recv"]["cpu_s"]), 2),
                          tables.number(middle(found, lambda report: report["faults"]["count"]), 0)])
            if found[0]["about"]["strategy"] != "postcopy":
                continue
            if ratio is None or ratio > cls.TIME:
                slow.append(f"{name}: {tables.number(ratio, 2)} x")
            if wire > cls.BYTES:
                many.append(f"{name}: {wire:.3f} x")
        tables.show(("case", "runs", "total", "of stop-copy", "postcopy", "MB/s", "wire/memory", "cpu a", "cpu b", "faults"),
                    lines)
        tables.goal(f"post-copy takes at most {cls.TIME} x stop-copy's time", not slow, slow)
        tables.goal(f"bytes on the wire at most {cls.BYTES} x the memory", not many, many)


class Hybrid:
    RHOS = (1.5, 4.0)
    LIMIT_MS, FEWER = 50, 5

    @classmethod
    def cases(cls, settings):
        found = []
        for rho in cls.RHOS:
            rate = int(rho * figures.payload_rate("1gbit"))
            writer = f"writer:rate={rate},set={settings.memory(256)},pattern=uniform,fill=random,seed=1"
            beside = f"{writer}+reader:set={settings.memory(512)},rate=100M"
            found += [Case(f"{name} {strategy}", guest,
                           lazily(settings, "--max-downtime", f"{cls.LIMIT_MS}ms", strategy=strategy), settings.run,
                           vcpus=vcpus, memory=settings.memory(1024), link="1gbit", strategy=strategy, rho=rho)
                      for name, guest, vcpus in ((f"rho {rho}", writer, 1), (f"rho {rho}, reader", beside, 2))
                      for strategy in ("hybrid", "postcopy")]
        return found

    @classmethod
    def show(cls, rows):
        print("Medians. rho is nominal: pages written over what the link takes. followed: MB after the guest had started.")
        print("Rounds leave 1 - 1/rho of a uniform writer's set, the very pages it takes next: alone it cannot fault much less")
        print("than 1 - 1/rho as often as without rounds. reader: beside it another vCPU reads half of the memory.")
        lines, late, held, few = [], [], [], []
        faults = {name: middle(found, lambda report: report["faults"]["count"]) for name, found in by_case(rows).items()}
        for name, found in by_case(rows).items():
            downtimes = [row["raw"]["send"]["downtime_ms"] for row in found]
            throttled = max((each["throttle"] for row in found for each in row["raw"]["send"]["rounds"]), default=0)
            pure = faults.get(name.replace("hybrid", "postcopy"))
            hybrid = found[0]["about"]["strategy"] == "hybrid"
            ratio = pure / faults[name] if hybrid and pure and faults[name] else None
            follow = middle(found, lambda report: (report["pages"]["demand"] + report["pages"]["pushed"]) * figures.PAGE / 1e6)
            lines.append([name, len(found), found[0]["raw"]["send"]["strategy"],
                          tables.number(middle(found, lambda report: len(report["rounds"])), 0),
                          tables.number(middle(found, lambda report: report["total_ms"]), 0),
                          tables.number(figures.middle(downtimes, float)), tables.number(max(downtimes)),
                          tables.number(throttled, 2), tables.number(follow, 0), tables.number(faults[name], 0),
                          tables.number(ratio), tables.number(middle(found, lambda report: report["faults"]["p50_us"]), 0),
                          tables.number(middle(found, lambda report: report["faults"]["p99_us"]), 0)])
            if not hybrid:
                continue
            if max(downtimes) > cls.LIMIT_MS:
                late.append(f"{name}: {max(downtimes):.1f} ms")
            if throttled > 0:
                held.append(f"{name}: {throttled:.2f}")
            if faults[name] and (ratio is None or ratio < cls.FEWER):
                few.append(f"{name}: {tables.number(ratio)} x fewer")
        tables.show(("case", "runs", "strategy", "rounds", "total", "downtime", "worst", "throttle", "followed", "faults",
                     "x fewer", "p50 us", "p99 us"), lines)
        tables.goal(f"hybrid's downtime at most {cls.LIMIT_MS} ms", not late, late)
        tables.goal("no throttle", not held, held)
        tables.goal(f"at least {cls.FEWER} x fewer faults than pure post-copy", not few, few)
