"""Two hosts on this machine, each a runtime folder of its own, and the real command between them.

Nothing here sleeps to wait: what is waited for is a condition with a deadline. Each test case has
a scratch folder, and at its end no process or socket of it may be left;
guest memory is anonymous and goes with its processes.
"""

import ctypes
import http.client
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

COMMAND = os.environ.get("MIGRATE_COMMAND", "migrate")
# Far beyond what anything here takes, also on a busy machine; only a failing test waits so long.
PATIENCE_S = 60.0
_PAUSE_S = 0.01
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1

# Pre-copy, whatever else strategy auto would choose. On a busy machine pausing and saving a guest alone may take longer
# than any limit that makes rounds on a calm one: then a longer downtime is the way out, and not a failure.
PRECOPY = ("--strategy", "precopy", "--on-stall", "throttle,raise:60s,abort")

DONE, FAILED, USAGE, REFUSED, CANCELLED, UNCERTAIN, LOST = range(7)

_libc = ctypes.CDLL(None, use_errno=True)


def wait_for(condition, what, patience=PATIENCE_S):
    """The condition's first true value."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:.0f} s for {what}")
        time.sleep(_PAUSE_S)


def kvm_problem():
    """Why KVM guests cannot run here; None when they can."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"needs /dev/kvm, which does not open ({error.strerror})"
    return None


class Process:
    """A run of the command, or of a host's other program. What it says goes to files: nobody has to read pipes."""

    def __init__(self, host, words, limits=()):
        self.words = [str(word) for word in words]
        self.program = os.path.basename(host.program)
        self._paths = [host.scratch.new_file(kind) for kind in ("out", "err")]
        environment = dict(os.environ, MIGRATE_RUNTIME_DIR=host.folder)

        def prepare():
            # A test that is killed takes along what it started.
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            for which, most in limits:
                resource.setrlimit(which, (most, most))

        with open(self._paths[0], "wb") as out, open(self._paths[1], "wb") as err:
            self._popen = subprocess.Popen(
                [*host.prefix, host.program, *self.words], env=environment, stdin=subprocess.DEVNULL, stdout=out,
                stderr=err, preexec_fn=prepare)
        self.pid = self._popen.pid

    def _read(self, which):
        with open(self._paths[which], encoding="utf-8", errors="replace") as file:
            return file.read()

    @property
    def out(self):
        return self._read(0)

    @property
    def err(self):
        return self._read(1)

    def json(self):
        try:
            return json.loads(self.out)
        except ValueError:
            raise AssertionError(f"not one JSON object: {self}") from None

    def running(self):
        return self._popen.poll() is None

    def signal(self, number):
        self._popen.send_signal(number)

    def wait(self, patience=PATIENCE_S):
        """The exit code, or minus the signal that ended it."""
        try:
            return self._popen.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {patience:.0f} s: {self}") from None

    def kill(self):
        if self.running():
            self._popen.kill()
            self._popen.wait()

    def __str__(self):
        return (f"`{self.program} {' '.join(self.words)}` (code {self._popen.poll()})\n"
                f"--- stdout\n{self.out}--- stderr\n{self.err}---")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("guest", timeout=PATIENCE_S)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Host:
    program = COMMAND
    # Words before each command, as for a network namespace; where its listeners listen.
    prefix = ()
    address = "127.0.0.1"

    def __init__(self, scratch, name):
        self.scratch = scratch
        self.folder = os.path.join(scratch.path, name)

    def start(self, *words, limits=()):
        process = Process(self, words, limits)
        self.scratch.processes.append(process)
        return process

    def json(self, *words, code=DONE):
        """What a subcommand prints with --json, having ended with `code`."""
        process = self.start(*words, "--json")
        if process.wait() != code:
            raise AssertionError(f"wanted exit code {code}: {process}")
        return process.json()

    def run(self, guest="counter", *words, name="web", memory="64M", vcpus=1, limits=()):
        """A guest that answers."""
        process = self.start("run", name, "--memory", memory, "--vcpus", vcpus, "--guest", guest,
                             *words, limits=limits)
        wait_for(lambda: self.answers(name) or not process.running(), "the guest to answer")
        if not process.running():
            raise AssertionError(f"the guest did not start: {process}")
        return process

    def recv(self, *words, limits=()):
        """A listener, and where it listens."""
        process = self.start("recv", "--listen", f"{self.address}:0", *words, limits=limits)
        mark = "listening on "

        def address():
            for line in process.err.splitlines(keepends=True):
                if mark in line and line.endswith("\n"):
                    return line.split(mark)[1].strip()
            return None if process.running() else "ended"

        process.address = wait_for(address, "the listener")
        if not process.running():
            raise AssertionError(f"the listener did not start: {process}")
        return process

    def send(self, target, *words, name="web"):
        return self.start("send", f"vm:{name}", target, "--json", *words)

    def socket_path(self, name="web"):
        return os.path.join(self.folder, name + ".sock")

    def answers(self, name="web"):
        return os.path.exists(self.socket_path(name))

    def _get(self, path, name):
        connection = UnixConnection(self.socket_path(name))
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = json.loads(answer.read())
            if answer.status != 200:
                raise AssertionError(f"{path} of {name}: {answer.status} {body}")
            return body
        finally:
            connection.close()

    def guest(self, name="web"):
        return self._get("/v1/guest", name)

    def state(self, name="web"):
        """None when no guest of that name answers here."""
        try:
            return self.guest(name)["state"]
        except (OSError, http.client.HTTPException):
            return None

    def stats(self, name="web"):
        return self._get("/v1/stats", name)

    def pids(self):
        """Living processes of this host: those whose environment names its folder."""
        mark = b"MIGRATE_RUNTIME_DIR=" + self.folder.encode()
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if mark in file.read().split(b"\0"):
                        found.append(int(entry))
            except OSError:
                continue
        return found

    def session_pid(self):
        """The process that a listener started for a session."""
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if b"--session" in file.read().split(b"\0"):
                        return pid
            except OSError:
                continue
        return None

    def kill(self, pid):
        """Ends a process that this host started."""
        assert pid in self.pids(), pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: pid not in self.pids(), "a killed process to go")

    def files(self):
        """What is in the runtime folder, but for the folders themselves."""
        return sorted(os.path.relpath(os.path.join(folder, name), self.folder)
                      for folder, _, names in os.walk(self.folder) for name in names)


class Scratch:
    """A test case's folder and processes; short, for UNIX socket paths have 107 bytes."""

    def __init__(self):
        self.path = tempfile.mkdtemp(prefix="mg-")
        self.processes = []
        self._files = 0
        # Sessions' processes outlive their listener: they become this process's children.
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def new_file(self, kind):
        self._files += 1
        return os.path.join(self.path, f"{self._files}.{kind}")

    def remove(self, hosts):
        for process in self.processes:
            process.kill()
        for host in hosts:
            for pid in host.pids():
                os.kill(pid, signal.SIGKILL)
        try:
            while True:
                os.waitpid(-1, 0)
        except ChildProcessError:
            pass
        shutil.rmtree(self.path)


class TwoHosts(unittest.TestCase):
    """A test case with hosts a and b."""

    maxDiff = None

    def setUp(self):
        problem = kvm_problem()
        if problem:
            self.skipTest(problem)
        scratch = Scratch()
        self.a = Host(scratch, "a")
        self.b = Host(scratch, "b")
        self.addCleanup(scratch.remove, (self.a, self.b))

    def skip_without(self, *trackers):
        """Skips the case where this host lacks one of these trackers."""
        for tracker in trackers:
            probe = self.a.start("recv", "--listen", "127.0.0.1:bad", "--tracker", tracker)
            probe.wait()
            if "is not possible on this host" in probe.err:
                self.skipTest(probe.err.strip())

    def ended(self, process, code):
        """Waits for a process and checks its exit code."""
        self.assertEqual(process.wait(), code, process)
        return process

    def report(self, send, outcome, code):
        """The report of a `send` that ended as told."""
        report = self.ended(send, code).json()
        self.assertEqual(report["outcome"], outcome, send)
        if outcome == "done":
            self.assertIsNone(report["error"], send)
        else:
            self.assert_error_is_clear(report["error"])
        return report

    def assert_error_is_clear(self, error):
        self.assertEqual(set(error), {"code", "phase", "side", "message", "remedy"})
        for field in ("code", "side", "message", "remedy"):
            self.assertTrue(error[field], f"no {field}: {error}")

    def assert_runs(self, host, name="web"):
        """The guest is there, runs, and found its memory right."""
        self.assertEqual(host.state(name), "running")
        before = self.work(host, name)
        wait_for(lambda: self.work(host, name) > before, "the guest to go on")
        self.assert_memory_right(host, name)

    def assert_memory_right(self, host, name="web"):
        """By the guest's own check. scripts/check-second-tries knows the words."""
        stats = host.stats(name)
        self.assertEqual(stats["verify_errors"], 0, f"wrong memory: {stats}")

    def assert_checks_itself(self, host, name="web"):
        """Two passes over memory: the second began and ended here."""
        before = host.stats(name)["verify_passes"]
        wait_for(lambda: host.stats(name)["verify_passes"] >= before + 2, "the guest to check its memory")
        self.assert_memory_right(host, name)

    def assert_absent(self, host, name="web"):
        """No guest of that name answers there, nor soon will: nothing of it is left."""
        wait_for(lambda: host.state(name) is None, "the guest's socket to go, or there are two guests")

    def work(self, host, name="web"):
        return sum(vcpu["work"] for vcpu in host.stats(name)["vcpus"])

    def stop(self, host, process=None, name="web"):
        """Ends a guest, and with it the process that hosts it."""
        self.ended(host.start("stop", name), DONE)
        if process:
            self.ended(process, DONE)
        wait_for(lambda: not host.answers(name), "the socket to go")

    def assert_nothing_left(self, *hosts):
        """No process, and in the runtime folder nothing but journals that may still be asked for."""
        for host in hosts or (self.a, self.b):
            wait_for(lambda: not host.pids(), f"the processes of {host.folder} to end")
            left = [name for name in host.files() if not name.startswith("sessions/")]
            self.assertEqual(left, [])
