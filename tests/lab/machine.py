"""The lab's machine: QEMU, emulating a processor with SVM and nested paging."""

import collections
import ctypes
import os
import selectors
import signal
import subprocess
import time

_PR_SET_PDEATHSIG = 1
# The emulated processor's counter is the same on all of its CPUs, but Linux would doubt it, and
# KVM's clock is exact only on a host that runs by the TSC.
_KERNEL_WORDS = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable rdinit=/init"
_CONSOLE_LINES = 60
# Far beyond what it takes on a busy machine; a calm one needs some 5 s.
_BOOT_S = 180
# After the exit code was told, power off is all there is to do.
_POWER_OFF_S = 60
_libc = ctypes.CDLL(None, use_errno=True)


class Broken(Exception):
    """The machine ended without the job's exit code. The text has its console's last lines."""


class Outcome:
    def __init__(self, code, boot_s, total_s):
        self.code = code        # None: the job's time was over first.
        self.boot_s = boot_s    # By the machine's own clock.
        self.total_s = total_s


class _Lines:
    """Whole lines out of what arrives in pieces."""

    def __init__(self):
        self._rest = b""

    def feed(self, data):
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace").rstrip("\r") for line in lines]


def _with_this_process():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Machine:
    def __init__(self, lab, initramfs, memory_mib, cpus):
        self._words = [
            *lab.qemu(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max",
            "-smp", str(cpus), "-m", str(memory_mib), "-kernel", lab.kernel, "-initrd", initramfs,
            "-append", _KERNEL_WORDS]
        self._modules = os.path.join(lab.root, "usr/lib/x86_64-linux-gnu/qemu")
        self._console = collections.deque(maxlen=_CONSOLE_LINES)
        self._control = []

    def run(self, write_output, limit_s):
        """Until the machine is off, or the job's time is over. `write_output` gets the job's bytes."""
        begin = time.monotonic()
        ports = [os.pipe() for _ in range(3)]
        writable = [write for _, write in ports]
        words = list(self._words)
        for write in writable:
            words += ["-serial", f"file:/proc/self/fd/{write}"]
        try:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=writable[0],
                                       stderr=writable[0], pass_fds=writable,
                                       preexec_fn=_with_this_process,
                                       env=dict(os.environ, QEMU_MODULE_DIR=self._modules))
        finally:
            for write in writable:
                os.close(write)
        try:
            in_time = self._read([read for read, _ in ports], write_output, limit_s)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            for read, _ in ports:
                os.close(read)
        return self._outcome(process.returncode, in_time, time.monotonic() - begin)

    def _read(self, ports, write_output, limit_s):
        """False when a deadline came before all three were closed."""
        lines = {ports[0]: _Lines(), ports[2]: _Lines()}
        phases = [("up", limit_s), ("exit", _POWER_OFF_S)]  # What is told, and the time from then on.
        deadline = time.monotonic() + _BOOT_S
        with selectors.DefaultSelector() as selector:
            for port in ports:
                selector.register(port, selectors.EVENT_READ)
            while selector.get_map():
                left = deadline - time.monotonic()
                ready = selector.select(left) if left > 0 else []
                if not ready:
                    return False
                for key, _ in ready:
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fd)
                    elif key.fd == ports[1]:
                        write_output(data)
                    elif key.fd == ports[0]:
                        self._console += lines[key.fd].feed(data)
                    else:
                        self._control += lines[key.fd].feed(data)
                        while phases and self._find(phases[0][0]) is not None:
                            deadline = time.monotonic() + phases.pop(0)[1]
        return True

    def _find(self, what):
        mark = f"lab: {what} "
        return next((line[len(mark):] for line in self._control if line.startswith(mark)), None)

    def console(self):
        """Its last lines, and what the first process complained of."""
        return "\n".join([*self._console, *(line for line in self._control if "fault" in line)])

    def _outcome(self, status, in_time, total_s):
        code, up, fault = self._find("exit"), self._find("up"), self._find("fault")
        if up is None and not in_time:
            fault = f"it was not up within {_BOOT_S} s"
        if fault is not None or (code is None and in_time):
            raise Broken(f"the lab's machine ended ({status}) "
                         f"{'' if up else 'before it was up, '}with: {fault or 'no exit code'}\n"
                         f"--- its console\n{self.console()}\n---")
        return Outcome(None if code is None else int(code), float(up) if up else None, total_s)
