#!/usr/bin/env python3
"""Makes the lab's folder of Debian's packages: QEMU with all it needs, a kernel, busybox.

    build_lab.py FOLDER [--refresh]

Nothing is installed. What was fetched stays in FOLDER: a second call needs no network.
"""

import argparse
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from debian import Apt, Unavailable, mirror

# In order of preference; each as one set. QEMU before 10 emulates nested paging in a way that guest
# kernels crash on, and Linux before 6.7 has no PAGEMAP_SCAN.
_SUITES = (("trixie",), ("bookworm", "bookworm-backports"))
_QEMU_MIN = (10, 0)
_KERNEL_MIN = (6, 12)
_KERNEL = "linux-image-cloud-amd64"
_PROGRAMS = ("qemu-system-x86",)
_ALONE = ("busybox-static",)
SKIPPED = 77


class Lab:
    """A finished folder."""

    def __init__(self, folder):
        self.folder = folder
        self.root = os.path.join(folder, "root")
        with open(os.path.join(folder, "versions.json"), encoding="utf-8") as file:
            self.versions = json.load(file)

    def _one(self, *patterns):
        found = [path for pattern in patterns for path in glob.glob(os.path.join(self.root, pattern))]
        if not found:
            raise Unavailable(f"{self.folder} lacks {patterns[0]}; make it anew with --refresh")
        return found[0]

    @property
    def kernel(self):
        return self._one("boot/vmlinuz-*")

    @property
    def modules(self):
        return self._one("usr/lib/modules/*", "lib/modules/*")

    @property
    def busybox(self):
        return self._one("usr/bin/busybox", "bin/busybox")

    def qemu(self):
        """The words that run QEMU with its own libraries, whatever this machine has."""
        libraries = [os.path.join(self.root, name, "x86_64-linux-gnu") for name in ("lib", "usr/lib")]
        return [self._one("lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2"),
                "--library-path", ":".join(libraries), self._one("usr/bin/qemu-system-x86_64"),
                "-L", os.path.join(self.root, "usr/share/qemu"),
                "-L", os.path.join(self.root, "usr/share/seabios")]


def _numbers(version):
    """(10, 0) of 1:10.0.2+ds-1."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split(":")[-1])[:2])


def _choose(apt):
    """The packages to fetch, with versions; Unavailable where these suites' are too old."""
    apt.update()
    plan = apt.plan(*_PROGRAMS)
    kernels = {name: version for name, version in apt.plan(_KERNEL).items()
               if re.match(r"linux-image-\d.*-cloud-amd64$", name)}
    for name, versions, least in (("qemu-system-x86", plan, _QEMU_MIN), ("linux-image", kernels, _KERNEL_MIN)):
        version = next((v for n, v in versions.items() if n.startswith(name)), "0.0")
        if _numbers(version) < least:
            raise Unavailable(f"{name} is {version}, and the lab needs {'.'.join(map(str, least))}")
    alone = apt.plan(*_ALONE)
    return plan | kernels | {name: alone[name] for name in _ALONE}


def _unpack(archives, root):
    os.makedirs(root)
    for archive in sorted(glob.glob(os.path.join(archives, "*.deb"))):
        try:
            subprocess.run(["dpkg-deb", "-x", archive, root], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unavailable(f"{os.path.basename(archive)} cannot be unpacked: "
                              f"{getattr(error, 'stderr', '') or error}") from None


def _make(work):
    """Fills `work`, from the first suites that will do."""
    uri, faults = mirror(), []
    for suites in _SUITES:
        folder = os.path.join(work, "apt")
        try:
            apt = Apt(folder, uri, suites)
            versions = _choose(apt)
            apt.fetch(versions)
        except Unavailable as error:
            faults.append(str(error))
            shutil.rmtree(folder)
            continue
        _unpack(apt.archives, os.path.join(work, "root"))
        shutil.rmtree(folder)
        with open(os.path.join(work, "versions.json"), "w", encoding="utf-8") as file:
            json.dump({"suites": suites, "packages": versions}, file, indent=1)
        return
    raise Unavailable(" | ".join(faults))


def _recipe():
    """What a folder was made by: another recipe, another folder."""
    text = repr((_SUITES, _PROGRAMS, _KERNEL, _ALONE))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def lab_in(folder, refresh=False, fetch=True):
    """The lab of this folder, made first where it is not there. One process makes it, others wait."""
    os.makedirs(folder, exist_ok=True)
    final = os.path.join(folder, "machine-" + _recipe())
    with open(os.path.join(folder, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if refresh:
            shutil.rmtree(final, ignore_errors=True)
        if not os.path.exists(os.path.join(final, "versions.json")):
            if not fetch:
                raise Unavailable(f"{folder} has not been made: run build_lab.py {folder}")
            for left in glob.glob(os.path.join(folder, "making-*")):
                shutil.rmtree(left)
            work = tempfile.mkdtemp(prefix="making-", dir=folder)
            try:
                _make(work)
                os.rename(work, final)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return Lab(final)


def skip(why):
    """Says so as GoogleTest does, for those who look for what was skipped."""
    print(f"lab: Skipped\nthe nested lab cannot be made here: {why}")
    return SKIPPED


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--refresh", action="store_true", help="fetch anew")
    arguments = parser.parse_args()
    try:
        lab = lab_in(os.path.abspath(arguments.folder), arguments.refresh)
        kernel = os.path.basename(lab.modules)
    except Unavailable as error:
        return skip(error)
    packages = lab.versions["packages"]
    print(f"the lab: {len(packages)} packages of {'+'.join(lab.versions['suites'])}, "
          f"QEMU {packages['qemu-system-x86']}, Linux {kernel}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
