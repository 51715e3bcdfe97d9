"""One QEMU that stands: a machine whose processor never runs, told what to do by QMP.

QEMU is a program of its own here, and nothing of it is linked or copied."""
import ctypes
import json
import os
import signal
import socket
import subprocess

PR_SET_PDEATHSIG = 1
WAIT_S = 120


def find(folder):
    """How to call the QEMU in a folder that `fetch` made: its words and its environment."""
    environment = dict(os.environ)
    environment["LD_LIBRARY_PATH"] = f"{folder}/usr/lib/x86_64-linux-gnu:{folder}/lib/x86_64-linux-gnu"
    words = [f"{folder}/usr/bin/qemu-system-x86_64"]
    for data in ("qemu", "seabios"):
        words += ["-L", f"{folder}/usr/share/{data}"]
    return words, environment


def version(qemu):
    words, environment = qemu
    said = subprocess.run([words[0], "-version"], env=environment, check=True, capture_output=True, text=True)
    return said.stdout.splitlines()[0]


def ends_with_parent():
    """So that nothing is left when this program is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Machine:
    """Use with `with`. `ram`: further words that say what memory is."""

    def __init__(self, qemu, memory, ram=()):
        words, environment = qemu
        ours, theirs = socket.socketpair()
        ours.settimeout(WAIT_S)
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            # pylint: disable=consider-using-with,subprocess-popen-preexec-fn
            self.process = subprocess.Popen(
                words + ["-nodefaults", "-no-user-config", "-display", "none", "-S", "-m", str(memory),
                         "-machine", "pc", "-accel", "tcg", "-smp", "1",
                         "-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
                + list(ram), env=environment, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                preexec_fn=ends_with_parent)
        self.socket = ours
        self.lines = ours.makefile("r")
        self.events = []
        self._next()  # The greeting.
        self.ask("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.lines.close()
        self.socket.close()

    def _next(self):
        line = self.lines.readline()
        if not line:
            raise RuntimeError(f"QEMU has ended, with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            said = self._next()
            if "event" in said:
                self.events.append(said)
            elif "error" in said:
                raise RuntimeError(f"QEMU refuses {command}: {said['error']['desc']}")
            else:
                return said["return"]

    def migrate_parameters(self, channels, compression):
        names = ["events"] + (["multifd"] if channels else [])
        self.ask("migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in names])
        parameters = {"max-bandwidth": 1 << 40}
        if channels:
            parameters["multifd-channels"] = channels
            parameters["multifd-compression"] = compression
            if compression == "zstd":
                parameters["multifd-zstd-level"] = 1
        self.ask("migrate-set-parameters", **parameters)

    def wait_until_migrated(self):
        while True:
            for event in self.events:
                if event["event"] != "MIGRATION":
                    continue
                status = event["data"]["status"]
                if status == "completed":
                    return
                if status in ("failed", "cancelled"):
                    raise RuntimeError(f"QEMU's migration has {status}: {self.ask('query-migrate')}")
            self.events = [self._next()]

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
