"""Writers that are uniform in their set, slower and faster than the link: with throttling each must end, without it
the slow ones; and what the fast ones leave is held against theory."""
import figures
import models
import tables
from moves import Case

RHOS = (0.5, 0.9, 1.1, 1.5, 2.0, 4.0)
LIMIT_MS = 50
LOSS_FACTOR = 1.3
MODEL_ERROR = 0.15
_LIMIT = ("--max-downtime", f"{LIMIT_MS}ms")
# The nearer rho is to 1, the more rounds until the set stands still.
_ROUNDS = {1.1: 40, 1.5: 14}
_ROUNDS_ELSE = 10
# Pages looked at: fewer say little.
_STEP_PAGES = 1000


def writer(settings, rho, link="1gbit", pattern="uniform"):
    rate = "max" if rho is None else int(rho * figures.payload_rate(link))
    return f"writer:rate={rate},set={settings.set},pattern={pattern},fill=random,seed=1"


def cases(settings):
    found = []
    about = {"memory": settings.memory, "hot": settings.set_pages}
    for rho in RHOS:
        guest = writer(settings, rho)
        found.append(Case(f"throttle {rho}", guest, (*settings.send, *_LIMIT, "--on-stall", "throttle,abort"),
                          settings.run, mode="throttle", rho=rho, **about))
        if rho < 1:
            found.append(Case(f"free {rho}", guest, (*settings.send, *_LIMIT, "--on-stall", "abort"), settings.run,
                              mode="free", rho=rho, **about))
            continue
        for tracker in ("log", "ring"):
            fixed = f"fixed:{_ROUNDS.get(rho, _ROUNDS_ELSE)}"
            found.append(Case(f"fixed {rho} {tracker}", guest,
                              (*settings.send, *_LIMIT, "--on-stall", "abort", "--policy", fixed),
                              ("--tracker", tracker), mode="fixed", rho=rho, tracker=tracker, **about))
    return found


def within_loss(row):
    """Whether the guest lost no more work than it may; None where it need not lose any."""
    least = figures.least_loss(row["figures"]["rho"])
    return row["figures"]["lost"] <= LOSS_FACTOR * least if least > 0 else None


def show(rows):
    for mode, show_them in (("throttle", show_throttled), ("free", _show_free), ("fixed", _show_fixed)):
        of_mode = [row for row in rows if row["about"]["mode"] == mode]
        if of_mode:
            show_them(of_mode)


def by_case(rows):
    found = {}
    for row in rows:
        found.setdefault(row["case"], []).append(row)
    return found


def throttled_line(name, rows):
    def mid(key):
        return figures.middle(rows, lambda row: row["figures"][key])
    rho = mid("rho")
    held = [row["figures"]["held_most"] for row in rows if row["figures"]["held_most"]]
    return [name, tables.outcomes(rows), tables.number(mid("rho_written"), 2), tables.number(rho, 2),
            tables.number(mid("rounds"), 0), tables.number(mid("total_ms"), 0), tables.number(mid("downtime_ms")),
            tables.number(mid("p50_ms")), tables.number(mid("p95_ms")), tables.number(mid("residue"), 0),
            tables.number(mid("wire") / 1e6, 0), tables.share(mid("lost")), tables.share(figures.least_loss(rho)),
            tables.share(figures.least_loss(rho, 1)), tables.share(mid("held_share")), tables.number(mid("held_ms"), 0),
            "/".join(f"{value:.2f}" for value in held[0]) if held else "-"]


THROTTLED = ("case", "outcome", "written", "rho", "rounds", "total", "down", "p50", "p95", "residue", "wire MB", "lost",
             "least .85", "least 1", "held", "held ms", "most by vCPU")


def show_throttled(rows):
    print("\nWith --on-stall throttle,abort. Times in ms, medians. rho: unique pages dirtied before the migration, sampled each")
    print("20 ms by `migrate predict`, over what the link took; written: all pages it writes. Lost: of the guest's work, while")
    print("it moved, by what it did when calm; least: 1 - 0.85/rho, and 1 - 1/rho. Held: share of run time withheld, and for")
    print("how long, which is less than the migration took: so may be what is lost.")
    tables.show(THROTTLED, [throttled_line(name, found) for name, found in by_case(rows).items()])
    late = [f"{row['case']}: {row['figures']['error'] or row['figures']['outcome']}, downtime "
            f"{tables.number(row['figures']['downtime_ms'])} ms" for row in rows
            if row["figures"]["outcome"] != "done" or row["figures"]["downtime_ms"] > LIMIT_MS]
    tables.goal(f"each ends within {LIMIT_MS} ms ({len(rows) - len(late)} of {len(rows)})", not late, late)
    dear = [f"{row['case']}: {tables.share(row['figures']['lost'])} of "
            f"{tables.share(LOSS_FACTOR * figures.least_loss(row['figures']['rho']))}" for row in rows
            if within_loss(row) is False]
    asked = sum(within_loss(row) is not None for row in rows)
    tables.goal(f"lost at most {LOSS_FACTOR} x (1 - 0.85/rho) where rho > 0.85 ({asked - len(dear)} of {asked})",
                not dear, dear)


def _show_free(rows):
    print("\nWithout throttling, rho < 1")
    tables.show(THROTTLED[:12], [throttled_line(name, found)[:12] for name, found in by_case(rows).items()])
    late = [row["case"] for row in rows if row["figures"]["outcome"] != "done"]
    slow = [f"{row['case']}: {row['figures']['downtime_ms']:.1f} ms" for row in rows
            if row["figures"]["outcome"] == "done" and row["figures"]["downtime_ms"] > LIMIT_MS]
    tables.goal("all end", not late, late)
    tables.goal(f"within {LIMIT_MS} ms", not slow and not late, slow)


def _steps(row):
    """(x, a, T, x after) of the rounds after the first, by the writes while it moved."""
    hot, rounds = row["about"]["hot"], row["raw"]["report"]["rounds"]
    writes = row["figures"]["writes_during_s"]
    found = []
    for before, this in zip(rounds, rounds[1:]):
        if before["dirty_after"] >= _STEP_PAGES and this["dirty_after"] > 0 and this["ms"] > 0:
            seconds = this["ms"] / 1000
            found.append((min(1.0, before["dirty_after"] / hot), writes * seconds / hot, seconds,
                          this["dirty_after"] / hot))
    return found


def _step_error(row, ahead_s):
    """The median error of each round's forecast from the one before it."""
    if row["about"]["tracker"] == "ring":
        errors = [models.ring_step(a) / after - 1 for _, a, _, after in _steps(row)]
    else:
        errors = [models.log_step(x, a, a * ahead_s / took) / after - 1 for x, a, took, after in _steps(row)]
    return figures.middle(errors, lambda error: error)


def _show_fixed(rows):
    rows = [row for row in rows if row["figures"]["outcome"] == "done" and row["figures"]["page_rate"]]
    ahead_s = models.fit_ahead([step for row in rows if row["about"]["tracker"] == "log" for step in _steps(row)])
    print("\nWithout throttling, rho > 1, as many rounds as until the set stands still: the share x of it left to the last")
    print("round. written: pages written while it moved over what the link takes; rho: over pages looked at in rounds, some of")
    print("which had not changed (written between re-arming and reading) and cost the link nothing. classic: x =")
    print("1 - exp(-rho x), all of the set armed all the time and all of x sent. 1-1/rho: what either tracker leaves where")
    print("pages written again in time are not sent twice. ahead: the same where reading runs D ahead of the link (models.py);")
    print("by step: error of the model for each round from the one before it. D, the one figure fitted here:")
    print(f"{1000 * ahead_s:.0f} ms; the longer a round is beside it, the nearer is x to 1 - 1/rho.")
    columns = ("case", "written", "rho", "x", "classic", "error", "1-1/rho", "error", "ahead", "error", "by step")
    lines, off = [], {"classic": [], "steady": [], "ahead": []}
    for name, found in by_case(rows).items():
        x = figures.middle(found, lambda row: row["figures"]["residue"] / row["about"]["hot"])
        about = found[0]["about"]
        writes = figures.middle(found, lambda row: row["figures"]["writes_during_s"])
        rho = writes / figures.middle(found, lambda row: row["figures"]["page_rate"])
        # Writes on each page in D.
        ahead = ahead_s * writes / about["hot"]
        fixed = models.ring_fixed if about["tracker"] == "ring" else models.log_fixed
        link = figures.middle(found, lambda row: row["figures"]["capacity"])
        line = [name, tables.number(writes * figures.PAGE / link, 2), tables.number(rho, 2), tables.number(x, 3)]
        for key, model in (("classic", models.classic(rho)), ("steady", models.steady(rho)), ("ahead", fixed(rho, ahead))):
            error = x / model - 1 if model > 0 else None
            line += [tables.number(model, 3), tables.share(error)]
            if error is None or abs(error) > MODEL_ERROR:
                off[key].append(f"{name}: {tables.share(error)}")
        line.append(tables.share(figures.middle(found, lambda row: _step_error(row, ahead_s))))
        lines.append(line)
    tables.show(columns, lines)
    tables.goal("residue within 15 % of the classic model, x = 1 - exp(-rho x)", not off["classic"], off["classic"])
    tables.goal("residue within 15 % of the engine's own, 1 - 1/rho", not off["steady"], off["steady"])
    tables.goal("residue within 15 % of the engine's own with reading ahead", not off["ahead"], off["ahead"])
