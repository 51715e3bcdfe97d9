"""A host for guests, and folders for their images, with what is done to both, timed and unjudged."""
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time

_TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests")
sys.path[:0] = [os.path.join(_TESTS, "e2e")]
# pylint: disable=wrong-import-position
import harness

PAGE = 4096
PATIENCE_S = 300.0
_WARM_MS = 1000
# What a guest's memory and everything else needs on a host.
_SPARE_BYTES = 1 << 30
_MADV_POPULATE_WRITE = 23
_UNITS = {"M": 1 << 20, "G": 1 << 30}
# Between two looks at a guest that has just been started.
_LOOK_S = 0.0005


class Case:
    """What is to be measured, and what its suite knows of it."""

    def __init__(self, name, **about):
        self.name, self.about = name, about


def bytes_of(size):
    return int(size[:-1]) * _UNITS[size[-1]]


def available():
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))


def warm(count):
    """Memory that has been free for some seconds may have gone back to this machine's own host, which gives it again
    at a tenth of its speed: what is going to be needed is taken, and given back at once."""
    if available() < count + _SPARE_BYTES:
        return
    memory = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # As a guest has it, so that there are free pieces of that size.
    memory.madvise(mmap.MADV_HUGEPAGE)
    memory.madvise(_MADV_POPULATE_WRITE)
    memory.close()


def evict(*paths):
    """What is in the page cache of these files goes, once it is on the disk."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def into_cache(path):
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def sample(host, name="web"):
    """The guest's counters, and when they were so."""
    begin = time.monotonic()
    stats = host.stats(name)
    return {"s": (begin + time.monotonic()) / 2, "work": sum(vcpu["work"] for vcpu in stats["vcpus"]),
            "verify_errors": stats["verify_errors"]}


def work_rate(first, last):
    return (last["work"] - first["work"]) / (last["s"] - first["s"])


class Bed:
    """Use with `with`. Takes down all that it made, whatever ends it."""

    def __init__(self, settings):
        self.settings = settings
        harness.Host.program = os.path.abspath(settings.migrate)
        self._images = {}
        self._made = 0

    def __enter__(self):
        self.folders = {"disk": os.path.join(self.settings.folder, f"mig-images-{os.getpid()}"),
                        "tmpfs": f"/dev/shm/mig-images-{os.getpid()}"}
        for path in self.folders.values():
            os.makedirs(path)
        self.begin()
        return self

    def __exit__(self, *_):
        self.end()
        for path in self.folders.values():
            shutil.rmtree(path)

    def begin(self):
        self.scratch = harness.Scratch()
        self.host = harness.Host(self.scratch, "a")

    def end(self):
        """Whatever a case has left, so that the next one finds the machine free."""
        self.scratch.remove((self.host,))

    def path(self, place="disk", name=None):
        self._made += 1
        return os.path.join(self.folders[place], name or f"{self._made}.img")

    def guest(self, workload, memory, *words, vcpus=1, name="web"):
        """A guest that runs, and has run for a while."""
        warm(bytes_of(memory))
        process = self.host.run(workload, *words, name=name, memory=memory, vcpus=vcpus)
        harness.wait_for(lambda: self.host.stats(name)["uptime_ms"] >= _WARM_MS, "the guest to have run for a while",
                         PATIENCE_S)
        return process

    def stop(self, name="web"):
        self.host.start("stop", name).wait()
        harness.wait_for(lambda: not self.host.answers(name), "the guest to end", PATIENCE_S)

    def checkpoint(self, path, *words, name="web"):
        """The report."""
        process = self.host.start("checkpoint", f"vm:{name}", path, *words, "--json")
        code = process.wait(PATIENCE_S)
        report = process.json()
        if code != 0 or report.get("outcome") != "done":
            raise AssertionError(str(process))
        return report

    def image(self, workload, memory, *words, place="disk"):
        """A file with such a guest at one instant, made once for all cases."""
        key = (workload, memory, words, place)
        if key not in self._images:
            process = self.guest(workload, memory)
            path = self.path(place)
            report = self.checkpoint(path, *words)
            self.stop()
            process.wait()
            self._images[key] = {"path": path, "report": report}
        return self._images[key]

    def restore(self, path, *words, name="web"):
        """Starts it. Returns the process with begun_s and answers_ms: until the guest ran, by its control socket."""
        begin = time.monotonic()
        process = self.host.start("restore", path, "--name", name, *words, "--json")
        state = None
        while state not in ("running", "paused"):
            if not process.running() or time.monotonic() > begin + PATIENCE_S:
                raise AssertionError(str(process))
            if self.host.answers(name):
                state = self.host.state(name)
            else:
                time.sleep(_LOOK_S)
        process.begun_s, process.answers_ms = begin, 1000 * (time.monotonic() - begin)
        return process

    def restored(self, process):
        """The report, once all memory is there."""
        harness.wait_for(lambda: process.out.endswith("\n") or not process.running(), "all memory to be there", PATIENCE_S)
        report = process.json()
        if report["outcome"] != "done":
            raise AssertionError(str(process))
        return report

    def raw(self, *words):
        """What bench/raw_disk says."""
        said = subprocess.run([os.path.join(self.settings.bench, "raw_disk"), *map(str, words), "--json"], check=True,
                              stdout=subprocess.PIPE, text=True)
        return json.loads(said.stdout)

    def smaps(self, pid):
        """Bytes by name, of a whole process."""
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            rows = [line.split() for line in file if line.rstrip().endswith("kB")]
        return {row[0].rstrip(":"): int(row[1]) << 10 for row in rows}


def interrupted(process):
    process.signal(signal.SIGINT)
    code = process.wait(PATIENCE_S)
    if code != 0:
        raise AssertionError(str(process))
    return process.json()
