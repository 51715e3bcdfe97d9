"""What was foretold of the downtime at the last decision, and what it was: of all runs that ended."""
import statistics

import tables

WITHIN, SPREAD, SLACK_MS, ERROR, ERROR_MS = 0.9, 2, 5, 0.25, 3


def show(rows):
    rows = [row for row in rows if row["figures"]["outcome"] == "done" and row["figures"]["downtime_ms"] is not None]
    print(f"\nForecasts of the downtime, {len(rows)} runs, in ms")
    if not rows:
        return
    lines, errors, shares, within, narrow = [], [], [], 0, 0
    for row in rows:
        found = row["figures"]
        downtime, p50, p95 = found["downtime_ms"], found["p50_ms"], found["p95_ms"]
        kept, tight = downtime <= p95, p95 <= SPREAD * p50 + SLACK_MS
        within += kept
        narrow += tight
        errors.append(abs(p50 - downtime))
        shares.append(abs(p50 / downtime - 1))
        lines.append([f"{row['suite']} {row['case']}", row["repeat"] + 1, tables.number(downtime, 2), tables.number(p50, 2),
                      tables.number(p95, 2), tables.number(p50 - downtime, 2), tables.share(p50 / downtime - 1),
                      "" if kept else "later", "" if tight else "wide"])
    tables.show(("run", "no", "downtime", "p50", "p95", "p50 off", "", "beyond p95", "p95 wide"), lines)
    count = len(rows)
    tables.goal(f"downtime within the p95 in at least 90 % of runs ({tables.share(within / count)})",
                within / count >= WITHIN)
    tables.goal(f"p95 at most 2 x p50 + 5 ms ({tables.share(narrow / count)} of runs)", narrow == count)
    error, share = statistics.median(errors), statistics.median(shares)
    tables.goal(f"median error of the p50 at most 25 % or 3 ms ({tables.share(share)}, {error:.2f} ms)",
                share <= ERROR or error <= ERROR_MS)
