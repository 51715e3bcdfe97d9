"""Guests that may move between the hosts of hosts.py, and clients that watch them."""

import json
import os
import signal
import struct
import subprocess

from hosts import CONTAINER_HOST, NET_CLIENT, PATIENCE_S, WORKLOAD, wait_for


def gaps(path, since_ns, until_ns=None):
    """[(milliseconds, when it began)] between stamps, of gaps with a part in that time; the longest first."""
    with open(path, "rb") as file:
        data = file.read()
    stamps = [at for (at,) in struct.iter_unpack("<Q", data[:len(data) // 8 * 8])]
    return sorted((((after - before) / 1e6, before) for before, after in zip(stamps, stamps[1:])
                   if after >= since_ns and (until_ns is None or before <= until_ns)), reverse=True)


def _runs(host, pid, path):
    try:
        return os.path.basename(os.readlink(host.proc(pid, "exe"))) == os.path.basename(path)
    except OSError:
        return False


class Guest:
    """The workload (workload.cc) on one of the hosts; it may move."""

    def __init__(self, host, *words, tree=1, container=None, netns=None, tmpfs=None, start=None):
        self.host = host
        self.called = None  # What `send` is told, where that is not its number.
        self._tree = tree
        folder = container or host.scratch.path
        inside = "/" if container else folder
        self._status, self.stamps = (host.scratch.new_file(kind) for kind in ("status", "stamps"))
        if container:
            self._status, self.stamps = (os.path.join(container, name) for name in ("status", "stamps"))
        files = [os.path.join(inside, os.path.basename(path)) for path in (self._status, self.stamps)]
        self._inside = files[0]
        words = ["--status", files[0], "--stamps", files[1], "--folder", inside, "--tree", str(tree),
                 *map(str, words)]
        if container:
            self.pid = (start or host.start_container)(container, "/workload", *words, netns=netns, tmpfs=tmpfs)
        else:
            self.pid = host.start_guest(WORKLOAD, *words, netns=netns)
        wait_for(lambda: self._is_ready() or not host.alive(self.pid), "the guest to be ready")
        if not host.alive(self.pid):
            raise AssertionError(f"the guest did not start: {words}")
        self.missing = self.lines("ready")[0]["missing"]

    def _is_ready(self):
        return len(self.lines("ready")) == self._tree and self.loops() > 0

    def lines(self, event):
        try:
            with open(self._status, encoding="utf-8") as file:
                lines = [json.loads(line) for line in file if line.endswith("\n")]
        except FileNotFoundError:
            return []
        return [line for line in lines if line["event"] == event]

    def verify(self, patience=PATIENCE_S):
        """Each process's findings about its memory now, by its role."""
        before = len(self.lines("verify"))
        self.host.signal(self.pid, signal.SIGUSR1)
        wait_for(lambda: len(self.lines("verify")) == before + self._tree or not self.host.alive(self.pid),
                 "the guest to have checked its memory", patience)
        if not self.host.alive(self.pid):
            raise AssertionError("the guest has ended")
        found = {line["role"]: line for line in self.lines("verify")[before:]}
        assert sorted(found) == list(range(self._tree)), found
        return found

    def moved_to(self, host):
        """Finds it there: one in a pid namespace of its own has another number at each host."""
        mark = b"--status\0" + self._inside.encode() + b"\0"
        # All of them: the words of one whose memory is still being filled read as empty, the first one's too.
        found = wait_for(lambda: self._all_processes(host, mark), f"the guest to be on {host.name}")
        self.host = host
        self.pid = next(pid for pid, parent in found.items() if parent not in found)

    def _all_processes(self, host, mark):
        found = self._processes(host, mark)
        return found if len(found) == self._tree else None

    @staticmethod
    def _processes(host, mark):
        found = {}
        for pid in host.all_pids():
            try:
                with open(host.proc(pid, "cmdline"), "rb") as file:
                    ours = mark in file.read()
                with open(host.proc(pid, "stat"), encoding="utf-8") as file:
                    parent = int(file.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            # Not the wrappers that start it, whose words hold its own.
            if ours and not _runs(host, pid, CONTAINER_HOST):
                found[pid] = parent
        return found

    def loops(self):
        """How often it has been round: its stamps."""
        return os.path.getsize(self.stamps) // 8 if os.path.exists(self.stamps) else 0


class Program:
    """Any other program, as a guest that keeps its number."""

    def __init__(self, host, *words, netns=None):
        self.host = host
        self.called = None
        self.pid = host.start_guest(*words, netns=netns)

    def moved_to(self, host):
        wait_for(lambda: host.alive(self.pid), f"process {self.pid} to be on {host.name}")
        self.host = host


class Client:
    """net_client.cc in the client's namespace."""

    def __init__(self, bed, *words):
        self._out = bed.scratch.new_file("client")
        # Ended by end(), or with the scratch. pylint: disable-next=consider-using-with
        self._popen = subprocess.Popen([*bed.net.inside("client"), NET_CLIENT, *map(str, words), "--out", self._out])
        wait_for(lambda: os.path.exists(self._out) or self._popen.poll() is not None, "the client to start")
        bed.scratch.processes.append(self)

    def kill(self):
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()

    def forget_waits(self):
        """Of `fetch`: the longest waits are those from now on."""
        self._popen.send_signal(signal.SIGUSR1)

    def end(self):
        """What it has seen."""
        self._popen.terminate()
        if self._popen.wait() != 0:
            raise AssertionError(f"the client ended with {self._popen.returncode}")
        with open(self._out, encoding="utf-8") as file:
            return json.load(file)
