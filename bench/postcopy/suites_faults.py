"""What guests wait for: one page, how many of them, and a link that is cut."""
import figures
import moves
import tables
from moves import Case
from suite_uniform import by_case
from suites_time import LINKS, lazily, middle


class Demand:
    # Over all of the memory, so that it never runs out of pages that are missing; and apart from each other.
    GUESTS = {"reader": "reader:set={set}M,rate={rate},fill=random,seed=1",
              "uniform": "writer:rate={rate},set={set}M,pattern=uniform,fill=random,seed=1"}
    # Of what the link takes: the guest faults all along, and push keeps the link busy.
    RATES = {"1gbit": "20M", "10gbit": "100M", moves.UNSHAPED: "100M"}
    P50, P99 = 2, 5

    @classmethod
    def cases(cls, settings):
        return [Case(f"{link} {name}",
                     guest.format(set=(512 if link == "1gbit" else 1024) // settings.cut, rate=cls.RATES[link]),
                     lazily(settings), settings.run, memory=settings.memory(1024 if link == "1gbit" else 2048), link=link,
                     demand=True)
                for link in LINKS for name, guest in cls.GUESTS.items()]

    @classmethod
    def show(cls, rows):
        print("Medians of the runs, in us. bare: a userfaultfd fault with nobody to ask, and a round trip of a page's demand")
        print("over the idle link, one after the other, p50 / p99. link: bytes that followed over time they took, of what")
        print("tbf lets through.")
        lines, slow, wide = [], [], []
        for name, found in by_case(rows).items():
            bare = {part: {which: figures.middle(found, lambda row: row["raw"]["demand"][part][f"{which}_us"])
                           for which in ("p50", "p99")} for part in ("fault", "round_trip")}
            p50, p99, most = (middle(found, lambda report, key=key: report["faults"][key])
                              for key in ("p50_us", "p99_us", "max_us"))
            rate = figures.middle(found, lambda row: _rate(row["raw"]["send"]))
            link = found[0]["link"]
            both = bare["fault"]["p50"] + bare["round_trip"]["p50"]
            lines.append([name, len(found), tables.number(middle(found, lambda report: report["faults"]["count"]), 0),
                          *(f"{bare[part]['p50']:.0f} / {bare[part]['p99']:.0f}" for part in bare), tables.number(p50, 0),
                          tables.number(p50 / both, 2), tables.number(p99, 0), tables.number(p99 / p50 if p50 else None, 1),
                          tables.number(most, 0), tables.number(rate / 1e6, 0),
                          "-" if link == moves.UNSHAPED else tables.share(rate / figures.payload_rate(link))])
            if p50 > cls.P50 * both:
                slow.append(f"{name}: {p50:.0f} to {both:.0f} us, {p50 / both:.2f} x")
            if p99 > cls.P99 * p50:
                wide.append(f"{name}: {p99:.0f} to {p50:.0f} us, {p99 / p50:.1f} x")
        tables.show(("case", "runs", "faults", "bare fault", "bare trip", "p50", "of bare", "p99", "of p50", "max", "MB/s",
                     "link"), lines)
        tables.goal(f"p50 at most {cls.P50} x a bare fault and a bare round trip", not slow, slow)
        tables.goal(f"p99 under {cls.P99} x p50", not wide, wide)


def _rate(report):
    """Bytes a second once the guest had started."""
    pages = report["pages"]["demand"] + report["pages"]["pushed"]
    return pages * figures.PAGE / report["phases_ms"]["postcopy"] * 1000 if report["phases_ms"]["postcopy"] else 0.0


class Bubbling:
    WORKS = {"reader": "reader:set={set},rate=40M", "reader max": "reader:set={set},rate=max",
             "sweep": "writer:rate=40M,set={set},pattern=sweep", "zipf": "writer:rate=40M,set={set},pattern=zipf"}
    ORDERS = ("bubble", "address")
    FEWER = 3

    @classmethod
    def cases(cls, settings):
        return [Case(f"{name} {order}", guest.format(set=settings.memory(512)) + ",fill=random,seed=1",
                     lazily(settings, "--push-order", order), settings.run, memory=settings.memory(1024), link="1gbit",
                     order=order)
                for name, guest in cls.WORKS.items() for order in cls.ORDERS]

    @classmethod
    def show(cls, rows):
        print("Medians, at 1 Gbit/s. reader and sweep go through their set page by page; zipf's likely pages lie apart")
        print("from each other. waited: share of the time that memory followed.")
        lines, few = [], []
        faults = {name: middle(found, lambda report: report["faults"]["count"]) for name, found in by_case(rows).items()}
        for name, found in by_case(rows).items():
            order = found[0]["about"]["order"]
            without = faults.get(name.replace("bubble", "address"))
            ratio = without / faults[name] if order == "bubble" and without and faults[name] else None
            lines.append([name, len(found), tables.number(faults[name], 0), tables.number(ratio),
                          tables.number(middle(found, lambda report: report["faults"]["p50_us"]), 0),
                          tables.number(middle(found, lambda report: report["faults"]["p99_us"]), 0),
                          tables.share(middle(found, _waited)),
                          tables.number(middle(found, lambda report: report["total_ms"]), 0)])
            if order == "bubble" and faults[name] and (ratio is None or ratio < cls.FEWER):
                few.append(f"{name[:-len(order) - 1]}: {tables.number(ratio)} x")
        tables.show(("case", "runs", "faults", "x fewer", "p50 us", "p99 us", "waited", "total ms"), lines)
        tables.goal(f"at least {cls.FEWER} x fewer faults with bubbling", not few, few)


def _waited(report):
    stalls = report["faults"]["stall_ms"]
    return sum(stalls) / len(stalls) / report["phases_ms"]["postcopy"] if stalls and report["phases_ms"]["postcopy"] else None


class Recovery:
    GUEST = "writer:rate=30M,set=256M,fill=random,seed=1+reader:set=256M,rate=100M"

    @classmethod
    def cases(cls, settings):
        return [Case(f"{settings.cuts} cuts", cls.GUEST, lazily(settings), settings.run, vcpus=2,
                     memory=settings.memory(2048), link="1gbit", cuts=settings.cuts, seed=seed, verify=True)
                for seed in (1,)]

    @staticmethod
    def show(rows):
        print("Connections are reset at either side at random moments, reconnecting included. away: in ms, all of them")
        print("together; passes: of the guest over all of its memory afterwards.")
        lines, few = [], []
        for row in rows:
            raw = row["raw"]
            report, wanted = raw["send"], row["about"]["cuts"]
            back = report["reconnects"]["count"]
            lines.append([row["case"], raw["cuts"], back, tables.number(report["reconnects"]["ms"], 0),
                          tables.number(report["total_ms"], 0), tables.number(report["bytes"]["wire"] /
                                                                            report["guest"]["memory_bytes"], 3),
                          report["faults"]["count"], raw["check"]["passes"], raw["check"]["verify_errors"],
                          report["integrity"]["digest"]])
            if back < wanted:
                few.append(f"{row['case']}: {back}")
        tables.show(("case", "cuts", "recoveries", "away", "total", "wire/memory", "faults", "passes", "errors", "digest"),
                    lines)
        tables.goal("as many recoveries as wanted", not few, few)
        wrong = [row["case"] for row in rows if row["raw"]["check"]["verify_errors"] or row["raw"]["check"]["passes"] < 2]
        tables.goal("memory right after them: a whole pass of the guest, 0 errors", not wrong, wrong)
