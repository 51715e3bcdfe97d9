"""One migration of a demo guest whose memory may follow it, and all that was seen of it, unjudged."""
import json
import mmap
import os
import random
import subprocess
import time

import moves  # It says where the next three are.  pylint: disable=unused-import
# pylint: disable-next=wrong-import-order
import harness
import net_harness
import testbed

_WARM_MS, _CHECKED_S, _VERIFIED_S = 1000, 2.0, 300.0
_PATIENCE_S = 600.0
# What a guest's memory and its checks add on a host.
_SPARE_BYTES = 1 << 30
_UNITS = {"M": 1 << 20, "G": 1 << 30}
# Between the time a cut is over and the next: anything up to this, also while it still connects.
_CUT_EVERY_S = 0.12


def problem(bench):
    for name in ("fault_floor", "floor"):
        if not os.access(os.path.join(bench, name), os.X_OK):
            return f"there is no {name} in {bench}: build it, or say --bench"
    return None


def bytes_of(size):
    return int(size[:-1]) * _UNITS[size[-1]]


def _available():
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))


def _warm(count):
    """Memory that has been free for some seconds may have gone back to this machine's own host, which gives it again
    at a tenth of a link's speed: what the target is going to need is taken, and given back at once."""
    if _available() > count + _SPARE_BYTES:
        mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def _ended(process):
    if process.wait() != 0:
        raise AssertionError(str(process))
    return process


def _bare_demand(bench, scratch, bed):
    """A fault without a link, and a round trip without anything else on the link."""
    program = os.path.join(bench, "fault_floor")
    near, far = (net_harness.Place(scratch, bed, host, program) for host in testbed.HOSTS)
    fault = _ended(far.start("--json")).json()
    serving = far.start("--serve", testbed.LINK["b"])
    mark = "listening on "
    harness.wait_for(lambda: serving.out.endswith("\n") or not serving.running(), "the bare round trips' far end")
    if mark not in serving.out:
        raise AssertionError(str(serving))
    trip = _ended(near.start("--ask", serving.out.split(mark)[1].strip(), "--json")).json()
    _ended(serving)
    return {"fault": fault, "round_trip": trip}


def _downtime_floor(bench, scratch, bed, vcpus):
    floor = net_harness.Place(scratch, bed, "a", os.path.join(bench, "floor"))
    return _ended(floor.start("--json", "--vcpus", vcpus, "--repeats", 20)).json()["guests"][0]


def _events(path):
    """What `send` has told so far, of whole lines."""
    try:
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []


def _cut(bed, host):
    """Ends all connections of the link at one side, as a reset does."""
    address = testbed.LINK["b"]
    subprocess.run([*bed.inside(host), "ss", "-K", "-t", *(("dst", address) if host == "a" else ("src", address))],
                   stdout=subprocess.DEVNULL, check=True)


def _cut_often(case, bed, send, path):
    """Until the link has come back often enough, or all memory has come. Returns the times it was cut."""
    chance = random.Random(case.about["seed"])
    cuts = 0

    def seen(what, phase="postcopy"):
        return [each for each in _events(path) if each.get("name") == what and each.get("phase") == phase]

    harness.wait_for(lambda: seen("postcopy") or not send.running(), "the guest to run at the target", _PATIENCE_S)
    while send.running() and len(seen("reconnected")) < case.about["cuts"]:
        time.sleep(chance.uniform(0, _CUT_EVERY_S))
        _cut(bed, chance.choice(testbed.HOSTS))
        cuts += 1
    return cuts


def _check(host, patience, passes):
    """The guest's counters once it has checked its memory so many times more, or when time is up."""
    begin = host.stats()
    deadline = time.monotonic() + patience
    stats = begin
    while stats["verify_passes"] < begin["verify_passes"] + passes and time.monotonic() < deadline:
        time.sleep(0.1)
        stats = host.stats()
    return {"verify_errors": stats["verify_errors"], "passes": stats["verify_passes"] - begin["verify_passes"]}


def move(bench, case, bed, a, b):
    """Raw: {"send", "recv": reports, "codes", "floor", "demand", "check", "cuts", "load"}."""
    about = case.about
    floor = _downtime_floor(bench, a.scratch, bed, case.vcpus) if about.get("floor") else None
    demand = _bare_demand(bench, a.scratch, bed) if about.get("demand") else None
    source = a.run(case.guest, *case.run, memory=case.memory, vcpus=case.vcpus)
    target = b.recv("--once", "--json")
    harness.wait_for(lambda: a.stats()["uptime_ms"] >= _WARM_MS, "the guest to have run for a while")
    load = os.getloadavg()[0]
    _warm(bytes_of(case.memory))
    path = os.path.join(a.scratch.path, "events")
    send = a.send(target.address, *case.send, "--events", path)
    cuts = _cut_often(case, bed, send, path) if "cuts" in about else 0
    codes = {"send": send.wait(_PATIENCE_S)}
    report = send.json()
    if report.get("outcome") != "done":
        raise AssertionError(f"{send}\n{target}")
    codes["run"] = source.wait()
    # The pass that is under way, and a whole one.
    check = _check(b, _VERIFIED_S if about.get("verify") else _CHECKED_S, 2)
    codes["stop"] = b.start("stop", "web").wait()
    codes["recv"] = target.wait()
    return {"send": report, "recv": target.json(), "codes": codes, "floor": floor, "demand": demand, "check": check,
            "cuts": cuts, "load": load, "verify": bool(about.get("verify"))}


def in_short(raw):
    report = raw["send"]
    faults, pages = report["faults"], report["pages"]
    return (f"{report['outcome']}, {report['total_ms']:.0f} ms, downtime {report['downtime_ms']:.2f}, "
            f"{report['bytes']['wire'] / 1e6:.0f} MB, faults {faults['count']} (p50 {faults['p50_us']:.0f}, p99 "
            f"{faults['p99_us']:.0f} us), {pages['demand']} demanded, {pages['pushed']} pushed, "
            f"{report['reconnects']['count']} reconnects, {raw['check']['passes']} passes")


def complaints(raw):
    """What no migration may do."""
    found = [f"{name} ended with {code}" for name, code in raw["codes"].items() if code != 0]
    for side in ("send", "recv"):
        if raw[side]["outcome"] != "done" or raw[side]["error"]:
            found.append(f"{side}: {raw[side]['outcome']}, {raw[side]['error']}")
        if raw[side]["integrity"]["digest"] != "equal":
            found.append(f"{side}: digest {raw[side]['integrity']['digest']}")
    if raw["check"]["verify_errors"] != 0:
        found.append(f"{raw['check']['verify_errors']} errors in the guest's memory")
    if raw["verify"] and raw["check"]["passes"] < 2:
        found.append("the guest did not get to check all of its memory")
    return found
