"""Writers that are not uniform, a fast link, a reader beside a writer, and other policies."""
import figures
import tables
from moves import Case
from suite_uniform import LIMIT_MS, THROTTLED, by_case, show_throttled, throttled_line, writer

_LIMIT = ("--max-downtime", f"{LIMIT_MS}ms")
_THROTTLE, _NO_THROTTLE = ("--on-stall", "throttle,abort"), ("--on-stall", "abort")


class Patterns:
    RHOS = (1.5, 2.0)

    @classmethod
    def cases(cls, settings):
        return [Case(f"{pattern} {rho}", writer(settings, rho, pattern=pattern),
                     (*settings.send, *_LIMIT, *_THROTTLE), settings.run, mode="throttle", rho=rho,
                     memory=settings.memory)
                for pattern in ("sweep", "zipf", "burst") for rho in cls.RHOS]

    @staticmethod
    def show(rows):
        show_throttled(rows)
        print("burst writes four times its rate in a quarter of each second; its rho is of whole seconds.")


class Fast:
    """One vCPU against 10 Gbit/s."""

    @staticmethod
    def cases(settings):
        guest = writer(settings, None, "10gbit")
        about = {"link": "10gbit", "memory": settings.memory}
        return [Case(f"{mode} max {tracker}", guest, (*settings.send, *_LIMIT, *stall), ("--tracker", tracker), mode=mode,
                     **about)
                for tracker in ("log", "ring") for mode, stall in (("throttle", _THROTTLE), ("free", _NO_THROTTLE))]

    @staticmethod
    def show(rows):
        show_throttled([row for row in rows if row["about"]["mode"] == "throttle"])
        free = [row for row in rows if row["about"]["mode"] == "free"]
        print("\nThe same without throttling")
        tables.show(THROTTLED[:12], [throttled_line(name, found)[:12] for name, found in by_case(free).items()])
        during = figures.middle(free, lambda row: row["figures"]["writes_during_s"] * figures.PAGE)
        if during is not None:
            print(f"written while it moved, unthrottled: {during / 1e6:.0f} MB/s (each first write of a page costs more then)")


class Innocent:
    """A reader beside a writer that is held."""
    RHO = 1.5
    GOAL = 0.03
    FIXED = 12
    # A reader as fast as it can fills a processor; one with a pace asks for the same of it whatever else goes on.
    READERS = {"max": "max", "paced": "300M"}

    @classmethod
    def cases(cls, settings):
        found = []
        for name, rate in cls.READERS.items():
            guest = f"{writer(settings, cls.RHO)}+reader:set=64M,rate={rate}"
            ways = (("ring", "ring", _THROTTLE), ("uniform", "log", _THROTTLE),
                    ("ring free", "ring", (*_NO_THROTTLE, "--policy", f"fixed:{cls.FIXED}")),
                    ("log free", "log", (*_NO_THROTTLE, "--policy", f"fixed:{cls.FIXED}")))
            for way, tracker, stall in ways:
                found.append(Case(f"{name} {way}", guest, (*settings.send, *_LIMIT, *stall), ("--tracker", tracker),
                                  vcpus=2, memory=settings.memory, reader=name, way=way))
        return found

    @classmethod
    def show(cls, rows):
        print(f"\nA writer at rho {cls.RHO} and a reader, as fast as it can (max) or with a pace. ring: held by vCPU; uniform:")
        print("both held alike; free: as many rounds, nobody held. Of each vCPU while it moved: share of run time, and work")
        print("by second of it, beside the same before. Of the free run with the same tracker: what the reader kept.")
        lines, kept = [], {}
        middles = {name: cls.middles(found) for name, found in by_case(rows).items()}
        for name, found in by_case(rows).items():
            reader, way = found[0]["about"]["reader"], found[0]["about"]["way"]
            this = middles[name]
            free = middles.get(f"{reader} {'log' if way in ('uniform', 'log free') else 'ring'} free")
            ratio = {key: this[f"reader {key}"] / free[f"reader {key}"] - 1
                     if free and free[f"reader {key}"] else None for key in ("run_share", "work_per_cpu_s")}
            if way in ("ring", "uniform"):
                kept[name] = ratio
            line = throttled_line(name, found)
            lines.append([name, line[1], line[4], line[5], line[6], tables.share(this["writer run_share"]),
                          tables.number(this["writer work_per_s"], 0), tables.share(this["reader run_share"]),
                          tables.number(this["reader work_per_cpu_s"], 0), tables.number(this["reader calm"], 0),
                          tables.share(ratio["run_share"]), tables.share(ratio["work_per_cpu_s"]), line[14], line[16]])
        tables.show(("case", "outcome", "rounds", "total", "down", "writer runs", "pages/s", "reader runs", "work/cpu s",
                     "calm", "runs +-", "work +-", "held", "most by vCPU"), lines)
        changed = [(f"{name}: {key} {tables.share(value)}", value) for name, ratio in kept.items()
                   if name.endswith(" ring") for key, value in ratio.items()]
        missed = [text for text, value in changed if value is None or abs(value) > cls.GOAL]
        tables.goal("with the ring the reader's run time and its work by second of it stay within 3 %", not missed, missed)
        worse = [text for text, value in changed if value is None or value < -cls.GOAL]
        tables.goal("with the ring it loses at most 3 % of either (a held writer leaves processor time over)", not worse, worse)

    @staticmethod
    def middles(rows):
        found = {}
        for i, vcpu in enumerate(("writer", "reader")):
            for key in ("run_share", "work_per_cpu_s", "work_per_s"):
                found[f"{vcpu} {key}"] = figures.middle(rows, lambda row: row["figures"]["by_vcpu"][i][key])
        found["reader calm"] = figures.middle(rows, lambda row: row["figures"]["by_vcpu_calm"][1]["work_per_cpu_s"])
        return found


class Policies:
    RHOS = (0, 0.5, 0.9, 1.5)
    POLICIES = ("own", "xen", "qemu", "fixed:5")

    @classmethod
    def cases(cls, settings):
        found = []
        # Xen's rates are shares of what the administrator allows, which elsewhere is the link itself.
        allowed = str(int(figures.payload_rate("1gbit")))
        for rho in cls.RHOS:
            guest = writer(settings, rho) if rho else "idle:fill=random,seed=1"
            for policy in cls.POLICIES:
                found.append(Case(f"{rho if rho else 'idle'} {policy}", guest,
                                  (*settings.send, *_LIMIT, *_THROTTLE, "--policy", policy,
                                   *(("--bandwidth", allowed) if policy == "xen" else ())),
                                  settings.run, memory=settings.memory, rho=rho, policy=policy))
        return found

    @staticmethod
    def show(rows):
        print(f"\nPolicies, all with --max-downtime {LIMIT_MS}ms --on-stall throttle,abort; xen's rates are of the link's.")
        tables.show(THROTTLED[:12], [throttled_line(name, found)[:12] for name, found in by_case(rows).items()])
        missed = [f"{row['case']}: downtime {tables.number(row['figures']['downtime_ms'])} ms" for row in rows
                  if row["about"]["policy"] == "own"
                  and (row["figures"]["outcome"] != "done" or row["figures"]["downtime_ms"] > LIMIT_MS)]
        tables.goal(f"the engine's own keeps {LIMIT_MS} ms in each; the others are shown beside it", not missed, missed)
