"""One migration of a demo guest between the two hosts of a testbed, and all that was seen of it, unjudged."""
import os
import shutil
import signal
import sys
import time

_TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests")
sys.path[:0] = [os.path.join(_TESTS, "net"), os.path.join(_TESTS, "e2e")]
# pylint: disable=wrong-import-position
import harness
import net_harness
import testbed

# Of the guest's work before it moves; whole periods of `pattern=burst`.
CALM_S = 2.0
# Beyond this a migration is cancelled: it would not have ended.
PATIENCE_S = 180.0
_WARM_MS, _AFTER_S, _CHECKED_S = 1500, 1.0, 8.0
# A rate: as fast as the machine is.
UNSHAPED = "unshaped"


class Case:
    """What is to be measured: a guest, the link, and the options of `run` and `send`."""

    def __init__(self, name, guest, send=(), run=(), vcpus=1, memory="1G", link="1gbit", **about):
        self.name, self.guest, self.send, self.run, self.vcpus = name, guest, tuple(send), tuple(run), vcpus
        self.memory, self.link, self.about = memory, link, about


def use(command):
    harness.Host.program = os.path.abspath(command)


def problem():
    return testbed.problem() or harness.kvm_problem()


class Mover:
    """Testbeds by the link's rate, each made when it is first needed. A context manager."""

    def __init__(self):
        self._bed, self._rate, self._made = None, None, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._leave()

    def _leave(self):
        bed, self._bed = self._bed, None
        if bed:
            bed.__exit__()

    def _on(self, rate):
        if self._bed is None or self._rate != rate:
            self._leave()
            self._made += 1
            shaped = {} if rate == UNSHAPED else {"link_rate": rate}
            self._bed = testbed.Testbed(f"mgc{os.getpid()}-{self._made}", **shaped).__enter__()
            self._rate = rate
            if rate == UNSHAPED:
                self._bed.unshape_link()
        return self._bed

    def move(self, case):
        """Raw: {"report", "predicted", "samples": {"early","calm","before","after","late","checked"}, "load"}."""
        return self.with_hosts(case.link, lambda _, *hosts: _move(case, *hosts))

    def with_hosts(self, rate, what):
        """what(bed, a, b), with a link of that rate between the two. What it starts ends with it."""
        bed = self._on(rate)
        scratch = harness.Scratch()
        hosts = [net_harness.NetHost(scratch, bed, name) for name in testbed.HOSTS]
        try:
            return what(bed, *hosts)
        finally:
            _remove(scratch, hosts)


def _remove(scratch, hosts):
    """Not Scratch.remove(): that waits for all children, and the testbed's guard is one."""
    for process in scratch.processes:
        process.kill()
    for host in hosts:
        for pid in host.pids():
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
    shutil.rmtree(scratch.path)


def _sample(host):
    """The guest's counters, and when they were so."""
    begin = time.monotonic()
    stats = host.stats()
    return {"s": (begin + time.monotonic()) / 2, "pages_written": stats["pages_written"],
            "work": [vcpu["work"] for vcpu in stats["vcpus"]], "cpu_ms": [vcpu["cpu_ms"] for vcpu in stats["vcpus"]],
            "verify_errors": stats["verify_errors"], "verify_passes": stats["verify_passes"]}


def _predict(case, host):
    """What the command foretells, having watched the guest's writes."""
    return host.json("predict", "web", "--bandwidth", case.link.replace("gbit", "Gbit"), "--duration", f"{CALM_S:g}s")


def _move(case, a, b):
    a.run(case.guest, *case.run, memory=case.memory, vcpus=case.vcpus)
    target = b.recv("--once", "--json")
    # Each page of a set costs more when it is first touched.
    harness.wait_for(lambda: a.stats()["uptime_ms"] >= _WARM_MS, "the guest to have run for a while")
    load = os.getloadavg()[0]
    early = _sample(a)
    time.sleep(CALM_S)
    calm = _sample(a)
    predicted = _predict(case, a)
    before = _sample(a)
    send = a.send(target.address, *case.send)
    timed_out = False
    try:
        send.wait(PATIENCE_S)
    except AssertionError:
        timed_out = True
        a.start("cancel", "web").wait()
        send.wait()
    report = send.json()
    if "outcome" not in report:
        raise AssertionError(str(send))
    host = b if report["outcome"] == "done" else a
    after = _sample(host)
    time.sleep(_AFTER_S)
    late = _sample(host)
    deadline = time.monotonic() + _CHECKED_S
    checked = late
    # All of its memory once more, unless it has no time for that.
    while checked["verify_passes"] <= before["verify_passes"] + 1 and time.monotonic() < deadline:
        time.sleep(0.1)
        checked = _sample(host)
    host.start("stop", "web").wait()
    if host is b:
        target.wait()
    return {"report": report, "predicted": predicted, "load": load, "timed_out": timed_out,
            "samples": {"early": early, "calm": calm, "before": before, "after": after, "late": late, "checked": checked}}
