"""Two hosts of containers on this machine: namespaces and a cgroup each, with the same files.

A host has processes, mounts, /proc, /run and a cgroup of its own; what both hosts share is the scratch
folder, on a tmpfs, and this machine's files. On a testbed (tests/net) each is in its network
namespace, and a guest can have one of its own with one address at both.
With its test, however that ends, a host and all in it is gone: it lives by a pipe that the test holds.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile

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
# Names of what a killed program may leave to a test.
_ORPHANS = ("migrate", "criu", "migrate-fill", os.path.basename(WORKLOAD)[:15])


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


def reap_orphans():
    """Reaps what a killed program left to this process, without which its pid namespace does not end. What this process
    has started itself (container_host, and others that it waits for) it leaves alone."""
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                children = file.read().split()
        except OSError:
            continue  # A thread that has ended.
        for pid in children:
            try:
                with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                    name, state = re.fullmatch(r"\d+ \((.*)\) (\S).*\n?", file.read()).groups()
            except OSError:
                continue
            if state == "Z" and name in _ORPHANS:
                os.waitpid(int(pid), os.WNOHANG)


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
            wait_for(lambda folder=folder: self._gone(folder), f"{folder} to be empty; see its cgroup.procs")

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
        # Its two processes say one line each, in any order.
        said = {self._init.stdout.readline().strip() for _ in range(2)}
        if "ready" not in said or len(said) != 2:
            self.end()
            raise AssertionError(f"the host {name} did not start")
        self.init_pid = int((said - {"ready"}).pop())
        self.prefix = (CONTAINER_HOST, "enter", str(self.init_pid), "--cgroup", self._own, "--")

    def end(self):
        self._init.stdin.close()
        self._init.stdout.close()

        def ended():
            reap_orphans()
            return self._init.poll() is not None

        try:
            wait_for(ended, f"the host {self.name} to end")
        except AssertionError:
            self._init.kill()
            raise

    @property
    def guests_group(self):
        """The group of its guests, from the hierarchy's root."""
        return self._guests[len(cgroup_mount()):]

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

    def start_container(self, root, *words, netns=None, tmpfs=None, bind=None):
        """The same as first process of a container whose root folder that is; its pid here. `bind`: FILE=PATH."""
        given = {"--netns": netns, "--tmpfs": tmpfs, "--bind": bind}
        options = [word for option, value in given.items() if value for word in (option, value)]
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


def _children():
    found = {}
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
            for pid in map(int, file.read().split()):
                with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as words:
                    # A zombie has no words.
                    found[pid] = words.read().replace("\0", " ")
    return {pid: words for pid, words in found.items() if words}


def end_children(processes):
    """These are killed; who has become a child of this process since ends by itself, or is named and killed."""
    for process in processes:
        process.kill()
    try:
        wait_for(lambda: not _children(), "the test's processes to end")
    except AssertionError:
        left = _children()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"these were left: {left}") from None


class ContainerBed:
    """Hosts a and b; `network` puts them on a testbed with a client, whose links have that rate. Use with `with`, or
    open and close."""

    def __init__(self, network=False, rate=testbed.RATE):
        # Images, logs and files in memory: a disk is no part of this.
        tempfile.tempdir = "/dev/shm"
        self.scratch = Scratch()
        self.net = None
        self._stack = contextlib.ExitStack()
        self._stack.callback(self.scratch.remove, ())
        self._stack.callback(end_children, self.scratch.processes)
        try:
            self._make(network, rate)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._stack.close()

    def _make(self, network, rate):
        cgroup = Cgroup(f"migrate-test-{os.getpid()}")
        self._stack.callback(cgroup.remove)
        if network:
            self.net = self._stack.enter_context(testbed.Testbed(f"mgc{os.getpid()}", lan_rate=rate))
            for name in "ab":
                self._make_guest_network(name)
        self.a, self.b = (self._host(name, cgroup) for name in "ab")

    def _host(self, name, cgroup):
        host = ContainerHost(self.scratch, name, cgroup, self.net)
        self._stack.callback(host.end)
        return host

    def guest_network(self, host):
        """The network namespace that a guest has at that host, with the guest's address in it."""
        return f"/run/netns/{self.net.prefix}-guest-{host.name}"

    def _make_guest_network(self, name):
        """Before the hosts, which know the namespaces that are there. The target's port is down."""
        def ip(*words):
            subprocess.run(["ip", *words], check=True, capture_output=True)

        inside, outside = f"{self.net.prefix}-guest-{name}", self.net.namespace(name)
        ip("netns", "add", inside)
        self._stack.callback(ip, "netns", "del", inside)
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


__all__ = ["COMMAND", "CRIU", "SHIM", "WORKLOAD", "NET_CLIENT", "CONTAINER_HOST", "PORT", "LINK", "RIG", "PATIENCE_S",
           "Cgroup", "ContainerHost", "ContainerBed", "criu_version", "problem", "program", "testbed", "wait_for"]
