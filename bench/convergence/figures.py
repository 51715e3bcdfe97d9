"""What a migration's report and the guest's counters come to."""
import re
import statistics

PAGE = 4096
RHO_TARGET = 0.85  # The throttle's: src/precopy/throttle_controller.hpp.
# Of an Ethernet frame of 1500 bytes and its header, what TCP carries.
_PAYLOAD = 1448 / 1514
_LONG_BYTES, _LONG_PAGES = 48e6, 2000
_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


def payload_rate(link):
    """Bytes a second that TCP gets through a link of that rate."""
    match = re.fullmatch(r"([0-9.]+)([kmg]bit)", link)
    return float(match[1]) * _UNITS[match[2]] / 8 * _PAYLOAD


def least_loss(rho, rho_target=RHO_TARGET):
    """Share of work a guest must lose so that it dirties no more than rho_target of what the link takes."""
    return max(0.0, 1 - rho_target / rho) if rho > 0 else 0.0


def _per_s(first, last, of):
    return (of(last) - of(first)) / (last["s"] - first["s"])


def _pages(sample):
    return sample["pages_written"]


def _of_vcpus(first, last):
    """Of each vCPU: its share of run time, and its work by second of it."""
    found = []
    for i in range(len(first["work"])):
        cpu_ms = last["cpu_ms"][i] - first["cpu_ms"][i]
        work = last["work"][i] - first["work"][i]
        found.append({"run_share": cpu_ms / 1000 / (last["s"] - first["s"]),
                      "work_per_cpu_s": 1000 * work / cpu_ms if cpu_ms > 0 else 0.0,
                      "work_per_s": work / (last["s"] - first["s"])})
    return found


def _lost(calm_rate, before, after, total_ms):
    """Of the work that the calm guest would have done in the migration. Between the samples it also ran before and
    after the migration; there it worked as when calm."""
    if calm_rate <= 0 or total_ms <= 0:
        return 0.0
    lacking = calm_rate * (after["s"] - before["s"]) - (_pages(after) - _pages(before))
    return lacking / (calm_rate * total_ms / 1000)


def _capacity(case, rounds):
    """What the link took, in bytes a second: of the best long round. A short one fits into the sockets' buffers."""
    most = payload_rate(case.link)
    found = [1000 * each["bytes"] / each["ms"] for each in rounds if each["bytes"] >= _LONG_BYTES and each["ms"] > 0]
    return min(most, max(found)) if found else most


def _page_rate(rounds):
    """Pages a second in the rounds after the first: some of them are found to be unchanged, and cost the link nothing."""
    found = [each for each in rounds[1:] if each["pages"] >= _LONG_PAGES]
    ms = sum(each["ms"] for each in found)
    return 1000 * sum(each["pages"] for each in found) / ms if ms > 0 else None


def derive(case, raw):
    """One flat object: the row of a table."""
    report, samples = raw["report"], raw["samples"]
    rounds, before, after = report["rounds"], samples["before"], samples["after"]
    capacity = _capacity(case, rounds)
    calm_rate = _per_s(samples["early"], samples["calm"], _pages)
    written = calm_rate * PAGE
    dirtied = raw["predicted"]["trace"]["dirty_bytes_per_s"]
    held_ms = sum(each["ms"] for each in rounds if each["throttle"] > 0)
    predicted = report["predicted"]
    return {
        "outcome": "timeout" if raw["timed_out"] else report["outcome"],
        "error": report["error"]["code"] if report["error"] else None,
        "tracker": report["guest"]["tracker"],
        "capacity": capacity,
        "link_share": capacity / payload_rate(case.link),
        "capacity_reported": report["capacity_mib_s"] * 1048576,
        "writes_s": calm_rate,
        "rho_written": written / capacity,
        "rho": dirtied / capacity,
        "page_rate": _page_rate(rounds),
        "writes_during_s": _per_s(before, after, _pages),
        "rounds": len(rounds),
        "total_ms": report["total_ms"],
        "downtime_ms": report["downtime_ms"] if report["outcome"] == "done" else None,
        "p50_ms": predicted["downtime_ms"],
        "p95_ms": predicted["downtime_p95_ms"],
        "wire": report["bytes"]["wire"],
        "residue": rounds[-1]["dirty_after"] if rounds else 0,
        "lost": _lost(calm_rate, before, after, report["total_ms"]),
        "held_ms": held_ms,
        "held_share": sum(each["ms"] * each["throttle"] for each in rounds) / held_ms if held_ms else 0.0,
        "held_most": [max(shares) for shares in zip(*(each["throttle_by_vcpu"] for each in rounds
                                                       if each["throttle_by_vcpu"]))],
        "by_vcpu": _of_vcpus(before, after),
        "by_vcpu_calm": _of_vcpus(samples["early"], samples["calm"]),
        "verify_errors": samples["checked"]["verify_errors"],
        "checked_again": samples["checked"]["verify_passes"] > before["verify_passes"] + 1,
        "integrity": report["integrity"]["digest"],
        "load": raw["load"],
    }


def middle(rows, of):
    """The median of what rows have; None when none has it."""
    values = [of(row) for row in rows]
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def sound(rows):
    """What no migration may do: a list of complaints."""
    found = []
    for row in rows:
        if row["figures"]["verify_errors"] != 0:
            found.append(f"{row['case']}: {row['figures']['verify_errors']} errors in the guest's memory")
        if row["figures"]["outcome"] == "done" and row["figures"]["integrity"] != "equal":
            found.append(f"{row['case']}: digest {row['figures']['integrity']}")
    return found
