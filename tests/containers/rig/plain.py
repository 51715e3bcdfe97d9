"""What CRIU does alone: dump at one host, restore at the other. The baseline, and proof of the rig."""

import os
import tempfile

from hosts import LINK, program

_HOLD = ("--log-file", "criu.log", "-v2")


def _checked(process, folder, name):
    if process.wait() != 0:
        log = os.path.join(folder, "criu.log")
        text = ""
        if os.path.exists(log):
            with open(log, encoding="utf-8", errors="replace") as file:
                text = "".join(line for line in file if "Error" in line or "Warn" in line)
        raise AssertionError(f"CRIU's {name} failed: {process}\n{text}")


def _switch_script(scratch):
    """Puts the target's port up once its sockets are there: before, its namespace answers with resets."""
    path = scratch.new_file("sh")
    with open(path, "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\n"
                   f'[ "$CRTOOLS_SCRIPT_ACTION" != network-unlock ] || ip link set {LINK} up\n')
    os.chmod(path, 0o755)
    return path


def plain_move(guest, source, target, restore=(), network=None):
    """Moves a guest, or raises with CRIU's errors.

    `network`: the external network namespace's name at the source, and the namespace's file at the target."""
    folder = tempfile.mkdtemp(prefix="images-", dir=source.scratch.path)
    dump = ["dump", "--tree", guest.pid, "--images-dir", folder, *_HOLD]
    words = ["restore", "--restore-detached", "--images-dir", folder, *_HOLD, *restore]
    prefix = ()
    if network:
        external, path = network
        dump += ["--external", external, "--tcp-established", "--network-lock", "nftables"]
        words += ["--tcp-established", "--inherit-fd", f"fd[9]:{external.split(':')[1]}",
                  "--action-script", _switch_script(source.scratch)]
        prefix = ("sh", "-c", 'exec 9<"$0"; exec "$@"', path)
    _checked(source.criu(*dump), folder, "dump")
    if prefix:
        source.run_in("ip", "link", "set", LINK, "down")
        before, target.program = target.program, prefix[0]
        try:
            process = target.start(*prefix[1:], program("criu"), *words)
        finally:
            target.program = before
    else:
        process = target.criu(*words)
    _checked(process, folder, "restore")
    guest.moved_to(target)
