#!/usr/bin/env python3
"""Runs a command in the lab: a machine with a real kvm-amd, emulated, that lives for this one job.

    run_in_lab.py [options] -- COMMAND [ARGUMENT...]

The command's program and what --file names are taken into the machine at their own paths, programs
with their libraries. Output is the command's, as it comes; the exit code too, but for
  77   the lab cannot be made here, and why is said
  124  the time limit came first
  125  the machine broke
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile

from build_lab import Unavailable, lab_in, skip
from gtest_output import SkippedTests
from image import write
from machine import Broken, Machine

_TIMED_OUT = 124
_BROKEN = 125


def _parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lab", default=os.environ.get("MIGRATE_LAB_DIR", "build/lab"),
                        help="its folder, made where it is not there (MIGRATE_LAB_DIR, build/lab)")
    parser.add_argument("--no-fetch", action="store_true", help="give up where it is not there")
    parser.add_argument("--memory", type=int, default=3072, metavar="MIB")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--limit", type=float, default=120, metavar="S",
                        help="time that the command has; then the machine is switched off")
    parser.add_argument("--machines", type=int, default=1, metavar="N",
                        help="begin anew, in up to N machines, where one broke: emulation of nested "
                             "virtualisation lets a kernel panic now and then; what the command says "
                             "of itself is never tried again")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--file", action="append", default=[], metavar="PATH",
                        help="of this machine, or a program's name")
    parser.add_argument("--folder", action="append", default=[], metavar="PATH",
                        help="of this machine, with all that is in it, as it is")
    parser.add_argument("--rig", metavar="PATH", help="of the container tests (tests/containers/rig/build_rig.py)")
    parser.add_argument("--module", action="append", default=[], metavar="NAME",
                        help="of the kernel, to be loaded as well")
    parser.add_argument("--guest-job", metavar="PATH",
                        help="a shell script for a Linux guest: /guest/vmlinuz and /guest/initrd, which "
                             "runs it, are there then")
    parser.add_argument("--may-skip", metavar="REGEX",
                        help="a GoogleTest case that is skipped fails the run, but for those whose "
                             "name this finds; without this option any may be skipped")
    parser.add_argument("--verbose", action="store_true", help="tell the console's last lines")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def _write_all(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _say(text):
    sys.stdout.flush()
    print(f"lab: {text}", file=sys.stderr, flush=True)


def _run(arguments):
    lab = lab_in(os.path.abspath(arguments.lab), fetch=not arguments.no_fetch)
    files = [shutil.which(name) or name for name in arguments.file]
    environment = dict(word.split("=", 1) for word in arguments.env)
    skipped = SkippedTests(arguments.may_skip)

    def take(data):
        _write_all(data)
        skipped.feed(data)

    with tempfile.TemporaryDirectory(prefix="lab-") as scratch:
        initramfs = os.path.join(scratch, "initramfs")
        write(lab, initramfs, arguments.command, environment, files, arguments.guest_job, arguments.folder,
              arguments.rig, arguments.module)
        machine = Machine(lab, initramfs, arguments.memory, arguments.cpus)
        outcome = machine.run(take, arguments.limit)
    if arguments.verbose or outcome.code is None:
        _say(f"the console's last lines:\n{machine.console()}")
    if outcome.code is None:
        _say(f"the command did not end within {arguments.limit:.0f} s (--limit)")
        return _TIMED_OUT
    _say(f"up in {outcome.boot_s:.1f} s, off after {outcome.total_s:.1f} s, exit code {outcome.code}")
    if outcome.code == 0 and skipped.forbidden():
        _say("skipped, which is a failure here: " + ", ".join(skipped.forbidden()))
        return 1
    return outcome.code


def _ended(*_):
    # As an exception, so that the machine and the scratch folder go.
    raise SystemExit(_BROKEN)


def main():
    arguments = _parse()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _ended)
    for left in reversed(range(max(arguments.machines, 1))):
        try:
            return _run(arguments)
        except Unavailable as error:
            return skip(error)
        except FileNotFoundError as error:
            _say(str(error))
            return _BROKEN
        except Broken as error:
            _say(str(error))
            if left == 0:
                return _BROKEN
            _say("the machine broke, not the command: it begins anew in another one")


if __name__ == "__main__":
    sys.exit(main())
