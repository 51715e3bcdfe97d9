"""Two hosts of containers on this machine: namespaces and a cgroup each, with the same files.

A host has processes, mounts, /proc, /run and a cgroup of its own; what both hosts share is the scratch
folder, on a tmpfs, and this machine's files. On a testbed (tests/net) each is in its network
namespace, and a guest can have one of its own with one address at both.
With its test, however that ends, a host and all in it is gone: it lives by a pipe that the test holds.
"""

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(_HERE, "..", "..", name) for name in ("e2e", "net")]
# pylint: disable=wrong-import-position
from harness import COMMAND, PATIENCE_S, Host, Scratch, wait_for  # noqa: E402
import testbed  # noqa: E402

RIG = os.environ.get("MIGRATE_CONTAINER_RIG", "")
CRIU = os.environ.get("MIGRATE_CRIU") or os.path.join(RIG, "criu")
SHIM = os.environ.get("MIGRATE_CRIU_SHIM", "")
WORKLOAD = os.environ.get("MIGRATE_WORKLOAD", "container_workload")
NET_CLIENT = os.environ.get("MIGRATE_NET_CLIENT", "container_net_client")
CONTAINER_HOST = os.environ.get("MIGRATE_CONTAINER_HOST", "container_host")
PORT = 8000
# A host's end of the pair whose other end is the guest's eth0.
LINK = "cport"


def program(name):
    """One of the rig's programs, with its own libraries."""
    return os.path.join(RIG, "bin", name)


def problem():
    """Why there can be no hosts of containers here; None when there can."""
    if os.geteuid() != 0:
        return "needs root for namespaces and CRIU"
    if cgroup_mount() is None:
        return "needs a hierarchy of cgroups, version 2"
    if not os.access(CRIU, os.X_OK):
        return f"needs a CRIU: {CRIU} is none; make one with tests/containers/rig/build_rig.py"
    check = subprocess.run([CRIU, "check"], capture_output=True, text=True, check=False)
    if check.returncode != 0:
        return f"`{CRIU} check` failed: {check.stdout}{check.stderr}"
    return None


def criu_version():
    """(4, 2, 1)."""
    words = subprocess.run([CRIU, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return tuple(int(part) for part in words[1].split("."))


def cgroup_mount():
    """Where this machine has its cgroups of version 2."""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        for line in file:
            _, path, kind, *_ = line.split()
            if kind == "cgroup2" and os.access(path, os.W_OK):
                return path
    return None


class Cgroup:
    """A group of this test, below the one that it runs in."""

    def __init__(self, name):
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            own = next(line.split("::")[1].strip() for line in file if line.startswith("0::"))
        self.path = os.path.join(cgroup_mount() + own, name)
        os.makedirs(self.path)

    def child(self, name):
        path = os.path.join(self.path, name)
        os.makedirs(path, exist_ok=True)
        return path

    def remove(self):
        """Ends what is left in it; groups that the command under test has made go too."""
        folders = [folder for folder, _, _ in os.walk(self.path, topdown=False)]
        for folder in folders:
            self._write(folder, "cgroup.freeze", "0")
            self._write(folder, "cgroup.kill", "1")
        for folder in folders:
            wait_for(lambda folder=folder: self._gone(folder), f"{folder} to be empty")

    @staticmethod
    def _write(folder, name, text):
        try:
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            pass

    @staticmethod
    def _gone(folder):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


class ContainerHost(Host):
    """One host. Programs run in it by start(), guests by guest() and container()."""

    def __init__(self, scratch, name, cgroup, bed=None):
        super().__init__(scratch, name)
        self.name = name
        self._own = cgroup.child(f"{name}/host")
        self._guests = cgroup.child(f"{name}/guest")
        self._bed = bed
        words = [CONTAINER_HOST, "init"]
        if bed:
            self.address = testbed.LINK[name]
            words += ["--netns", "/run/netns/" + bed.namespace(name)]
        # Its input is the pipe by which it lives. pylint: disable-next=consider-using-with
        self._init = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.init_pid = int(self._init.stdout.readline() or "0")
        if not self.init_pid or self._init.stdout.readline().strip() != "ready":
            raise AssertionError(f"the host {name} did not start")
        self.prefix = (CONTAINER_HOST, "enter", str(self.init_pid), "--cgroup", self._own, "--")

    def end(self):
        self._init.stdin.close()
        self._init.stdout.close()
        self._init.wait()

    # What is in it, by its own numbers.

    def proc(self, pid, name=""):
        return f"/proc/{self.init_pid}/root/proc/{pid}/{name}"

    def alive(self, pid):
        try:
            with open(self.proc(pid, "stat"), encoding="utf-8") as file:
                return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
        except OSError:
            return False

    def all_pids(self):
        """Everything that lives in it but its first process."""
        folder = f"/proc/{self.init_pid}/root/proc"
        return sorted(int(name) for name in os.listdir(folder)
                      if name.isdigit() and name != "1" and self.alive(int(name)))

    def signal(self, pid, number):
        words = [*self.prefix, "kill", f"-{int(number)}", str(pid)]
        subprocess.run(words, check=True, capture_output=True)

    def run_in(self, *words):
        """What a command here says, which must succeed."""
        done = subprocess.run([*self.prefix, *map(str, words)], capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=PATIENCE_S)
        if done.returncode != 0:
            raise AssertionError(f"{words} on {self.name}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    # Guests.

    def start_guest(self, *words, netns=None, environment=None):
        """A program that stays, in a session of its own without anything open; its pid here."""
        net = ["--netns", netns] if netns else []
        words = [CONTAINER_HOST, "start", str(self.init_pid), "--cgroup", self._guests, *net, "--", *words]
        done = subprocess.run([str(word) for word in words], check=True, stdout=subprocess.PIPE, text=True,
                              stdin=subprocess.DEVNULL, env=dict(os.environ, **(environment or {})))
        return int(done.stdout)

    def start_container(self, root, *words, netns=None, tmpfs=None):
        """The same as first process of a container whose root folder that is; its pid here."""
        options = (["--netns", netns] if netns else []) + (["--tmpfs", tmpfs] if tmpfs else [])
        prefix = [CONTAINER_HOST, "enter", str(self.init_pid), "--cgroup", self._guests, "--"]
        done = subprocess.run([*prefix, CONTAINER_HOST, "container", "--root", root, *options, "--",
                               *map(str, words)], check=True, stdout=subprocess.PIPE, text=True)
        return int(done.stdout)

    def criu(self, *words):
        program_before, self.program = self.program, CRIU
        try:
            return self.start(*words)
        finally:
            self.program = program_before


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

    def __init__(self, host, *words, tree=1, container=None, netns=None, tmpfs=None):
        self.host = host
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
            self.pid = host.start_container(container, "/workload", *words, netns=netns, tmpfs=tmpfs)
        else:
            self.pid = host.start_guest(WORKLOAD, *words, netns=netns)
        wait_for(lambda: (len(self.lines("ready")) == tree and self.loops() > 0) or not host.alive(self.pid), "the guest to be ready")
        if not host.alive(self.pid):
            raise AssertionError(f"the guest did not start: {words}")
        self.missing = self.lines("ready")[0]["missing"]

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
        found = wait_for(lambda: self._processes(host, mark), f"the guest to be on {host.name}")
        self.host = host
        self.pid = next(pid for pid, parent in found.items() if parent not in found)

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


class TwoContainerHosts(unittest.TestCase):
    """A test case with hosts a and b; `network` puts them on a testbed with a client."""

    maxDiff = None
    network = False

    def setUp(self):
        why = problem() or (self.network and testbed.problem())
        if why:
            self.skipTest(why)
        # Images, logs and files in memory: a disk is no part of this.
        tempfile.tempdir = "/dev/shm"
        self.scratch = Scratch()
        self.addCleanup(self.scratch.remove, ())
        cgroup = Cgroup(f"migrate-test-{os.getpid()}")
        self.addCleanup(cgroup.remove)
        self.bed = None
        if self.network:
            self.bed = testbed.Testbed(f"mgc{os.getpid()}")
            # pylint: disable-next=unnecessary-dunder-call
            self.bed.__enter__()
            self.addCleanup(self.bed.__exit__)
            for name in "ab":
                self._make_guest_network(name)
        self.a, self.b = (self._host(name, cgroup) for name in "ab")

    def _host(self, name, cgroup):
        host = ContainerHost(self.scratch, name, cgroup, self.bed)
        self.addCleanup(host.end)
        return host

    def guest_network(self, host):
        """The network namespace that a guest has at that host, with the guest's address in it."""
        return f"/run/netns/{self.bed.prefix}-guest-{host.name}"

    def _make_guest_network(self, name):
        """Before the hosts, which know the namespaces that are there. The target's port is down."""
        def ip(*words):
            subprocess.run(["ip", *words], check=True, capture_output=True)

        inside, outside = f"{self.bed.prefix}-guest-{name}", self.bed.namespace(name)
        ip("netns", "add", inside)
        self.addCleanup(ip, "netns", "del", inside)
        ip("-n", outside, "link", "add", LINK, "type", "veth", "peer", "name", "eth0", "address",
           testbed.GUEST_MAC, "netns", inside)
        ip("-n", outside, "link", "set", LINK, "master", "lan")
        ip("-n", inside, "link", "set", "lo", "up")
        ip("-n", inside, "address", "add", testbed.GUEST_IP + "/24", "dev", "eth0")
        ip("-n", inside, "link", "set", "eth0", "up")
        if name == "a":
            ip("-n", outside, "link", "set", LINK, "up")

    def external_network(self, host):
        """As CRIU names it."""
        return f"net[{os.stat(self.guest_network(host)).st_ino}]:guest"

    def container_root(self):
        """A folder that is a root file system with the workload and nothing else."""
        root = os.path.join(self.scratch.path, "root")
        for name in ("proc", "dev", "tmp"):
            os.makedirs(os.path.join(root, name))
        with open(WORKLOAD, "rb") as source, open(os.path.join(root, "workload"), "wb") as copy:
            copy.write(source.read())
        os.chmod(os.path.join(root, "workload"), 0o755)
        return root

    def client(self, *words):
        """A net_client in the testbed's client; ended by its end()."""
        return Client(self.scratch, self.bed, *words)

    def assert_memory_right(self, guest, patience=PATIENCE_S):
        for role, found in guest.verify(patience).items():
            self.assertEqual((found["verify_errors"], found["bad"], found["link_errors"]), (0, "", 0), (role, found))

    def assert_goes_on(self, guest):
        before = guest.loops()
        wait_for(lambda: guest.loops() > before + 20, "the guest to go on")
        self.assert_memory_right(guest)


class Client:
    """net_client.cc in the client's namespace."""

    def __init__(self, scratch, bed, *words):
        self._out = scratch.new_file("client")
        # Ended by end(), or with the scratch. pylint: disable-next=consider-using-with
        self._popen = subprocess.Popen([*bed.inside("client"), NET_CLIENT, *map(str, words), "--out", self._out])
        wait_for(lambda: os.path.exists(self._out) or self._popen.poll() is not None, "the client to start")
        scratch.processes.append(self)

    def kill(self):
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()

    def end(self):
        """What it has seen."""
        self._popen.terminate()
        if self._popen.wait() != 0:
            raise AssertionError(f"the client ended with {self._popen.returncode}")
        with open(self._out, encoding="utf-8") as file:
            return json.load(file)


__all__ = ["COMMAND", "CRIU", "SHIM", "WORKLOAD", "NET_CLIENT", "CONTAINER_HOST", "PORT", "LINK", "RIG", "Cgroup",
           "ContainerHost", "Guest", "TwoContainerHosts", "Client", "criu_version", "gaps", "problem", "program",
           "testbed", "wait_for"]
