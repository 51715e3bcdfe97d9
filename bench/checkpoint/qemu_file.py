"""QEMU's migration into a file and back, of a machine that stands, with a given memory."""
import os
import subprocess
import sys
import time

_PEERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peers", "qemu")
sys.path[:0] = [_PEERS]
# pylint: disable=wrong-import-position
import machine
from bed import bytes_of

# The firmware's part of the first MiB is not plain memory.
_FIRST_PLAIN = 1 << 20


def qemu(settings):
    """Fetched where it is not there yet."""
    said = subprocess.run([os.path.join(_PEERS, "fetch"), os.path.join(settings.bench, "..", "peers", "qemu")], check=True,
                          stdout=subprocess.PIPE, text=True)
    return machine.find(said.stdout.strip())


def write_content(settings, path, memory):
    subprocess.run([os.path.join(settings.bench, "transfer"), "--write-image", path, "--content", "mixed", "--memory",
                    memory], check=True, stdout=subprocess.DEVNULL)


def _prepare(side, way, channels):
    names = ["events"] + ([] if way == "stream" else ["multifd", "mapped-ram"])
    side.ask("migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in names])
    parameters = {"max-bandwidth": 1 << 40}
    if way != "stream":
        parameters["multifd-channels"] = channels
        parameters["direct-io"] = way == "mapped-ram direct-io"
    side.ask("migrate-set-parameters", **parameters)


def save(settings, content, path, memory, way, channels):
    ram = ["-object", f"memory-backend-file,id=ram,mem-path={content},size={bytes_of(memory)},share=off",
           "-machine", "memory-backend=ram"]
    with machine.Machine(qemu(settings), memory, ram) as source:
        _prepare(source, way, channels)
        # Its memory is the file's pages: they must be there.
        with open(content, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
        begin = time.monotonic()
        source.ask("migrate", uri=f"file:{path}")
        source.wait_until_migrated()
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        flushed = time.monotonic() - begin
        said = source.ask("query-migrate")
    return {"ms": said["total-time"], "flushed_ms": 1000 * flushed, "version": machine.version(qemu(settings))}


def load(settings, content, path, memory, way, channels):
    own = ["-incoming", "defer", "-object", f"memory-backend-ram,id=ram,size={bytes_of(memory)}",
           "-machine", "memory-backend=ram"]
    with machine.Machine(qemu(settings), memory, own) as target:
        _prepare(target, way, channels)
        begin = time.monotonic()
        target.ask("migrate-incoming", uri=f"file:{path}")
        target.wait_until_migrated()
        took = time.monotonic() - begin
        _check(target, content, path + ".ram", bytes_of(memory))
    return {"ms": 1000 * took}


def _check(target, content, saved, size):
    target.ask("pmemsave", val=_FIRST_PLAIN, size=size - _FIRST_PLAIN, filename=saved)
    same = subprocess.run(["cmp", "--quiet", "-i", f"{_FIRST_PLAIN}:0", content, saved], check=False).returncode == 0
    os.unlink(saved)
    if not same:
        raise AssertionError("QEMU's target has other memory than it was given")
