#!/usr/bin/env python3
"""Makes the folder in which the container tests find a CRIU that runs here, and programs to migrate.

    build_rig.py --to FOLDER [--refresh]

FOLDER/rootfs is made of Debian's packages, unpacked and not installed; FOLDER/criu and FOLDER/bin/*
run its programs with its own libraries from wherever they are called. A second call needs no network.
"""

import argparse
import fcntl
import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(_HERE)), "lab"))
from debian import Apt, Unavailable, mirror  # noqa: E402

SKIPPED = 77
_GUESTS = ("nginx-light", "redis-server", "redis-tools", "python3-minimal", "libpython3-stdlib", "wrk")
_TOOLS = ("runc", "crun", "iproute2", "nftables", "rsync", "busybox-static", "tar", "base-files", "libc-bin")
# In order of preference. CRIU before 4.2 cannot dump an inet socket on Linux 6.16 and later, and only
# the development suite has 4.2; with it comes a C library that the others' programs would run on too.
_SUITES = (("sid",), ("trixie",))
_RUN_BY_WRAPPER = ("sbin/criu", "sbin/nginx", "bin/redis-server", "bin/redis-benchmark", "bin/redis-cli",
                   "bin/python3", "bin/wrk", "bin/rsync", "sbin/nft", "bin/tar", "bin/ip")
_LOADER = "usr/lib64/ld-linux-x86-64.so.2"
# A merged /usr, and where a process looks for what no package carries.
_LINKS = ("bin", "sbin", "lib", "lib64")
_FOLDERS = ("dev", "proc", "sys", "tmp", "run", "root", "mnt", "var/log/nginx", "var/lib/nginx",
            "var/lib/redis", "var/log/redis", "etc")
_PASSWD = ("root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:/bin/false\nredis:x:100:100::/:/bin/false\n"
           "nobody:x:65534:65534::/:/bin/false\n")
_GROUP = "root:x:0:\nwww-data:x:33:\nredis:x:100:\nnogroup:x:65534:\n"

# The preload is for the program alone: neither for its loader's other uses nor for what it runs
# (those would be this machine's programs and libraries, or other processes that it must not touch).
# What the program itself looks up by PATH is first looked for among these wrappers.
_WRAPPER = """#!/bin/sh
preload=$LD_PRELOAD
unset LD_PRELOAD
here={folder}
root=$here/rootfs
PATH=$here/bin:$PATH
export PATH
{environment}exec "{loader}" --argv0 "{name}" --preload "$preload" \\
  --library-path "{libraries}" "$root/usr/{program}" "$@"
"""
_ENVIRONMENT = {"bin/python3": "PYTHONHOME=$root/usr\nPYTHONDONTWRITEBYTECODE=1\n"
                "export PYTHONHOME PYTHONDONTWRITEBYTECODE\n"}


def _unpack(archives, root):
    for name in _LINKS:
        os.makedirs(os.path.join(root, "usr", name))
        os.symlink("usr/" + name, os.path.join(root, name))
    for archive in sorted(glob.glob(os.path.join(archives, "*.deb"))):
        try:
            subprocess.run(["dpkg-deb", "-x", archive, root], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unavailable(f"{os.path.basename(archive)} cannot be unpacked: "
                              f"{getattr(error, 'stderr', '') or error}") from None
    for name in _LINKS:
        if not os.path.islink(os.path.join(root, name)):
            raise Unavailable(f"/{name} of the unpacked packages is no link into /usr; dpkg-deb here is too old")


def _try(root):
    """That CRIU starts on this kernel: a suite whose own does not is not taken."""
    run = subprocess.run([os.path.join(root, _LOADER), "--library-path",
                          os.path.join(root, "usr/lib/x86_64-linux-gnu"), os.path.join(root, "usr/sbin/criu"),
                          "check"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if run.returncode != 0:
        raise Unavailable(f"`criu check` says here: {run.stdout}{run.stderr}")


def _finish(root):
    """What maintainers' scripts would have done, as far as it is needed."""
    for name in _FOLDERS:
        os.makedirs(os.path.join(root, name), exist_ok=True)
    for name, text in (("passwd", _PASSWD), ("group", _GROUP)):
        with open(os.path.join(root, "etc", name), "w", encoding="utf-8") as file:
            file.write(text)
    os.chmod(os.path.join(root, "tmp"), 0o1777)
    busybox = os.path.join(root, "usr/bin/busybox")
    for applet in subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split():
        path = os.path.join(root, "usr/bin", applet)
        if not os.path.lexists(path) and not os.path.lexists(os.path.join(root, "usr/sbin", applet)):
            os.symlink("busybox", path)
    # The loader's cache, so that the programs run in it as a root too.
    subprocess.run(["/sbin/ldconfig", "-r", root], check=True, capture_output=True)


def _write_wrappers(folder, final):
    """The programs' wrappers in `folder`, which will be at `final`."""
    os.makedirs(os.path.join(folder, "bin"))
    root = os.path.join(folder, "rootfs")
    # A process cannot be restored while a file that it maps is the restoring program's own, as the kernel sees it.
    shutil.copy(os.path.join(root, _LOADER), os.path.join(folder, "criu-loader"))
    libraries = ":".join(f"$root/usr/lib{sub}" for sub in ("/x86_64-linux-gnu", ""))
    for program in _RUN_BY_WRAPPER:
        name = os.path.basename(program)
        if not os.path.exists(os.path.join(root, "usr", program)):
            raise Unavailable(f"the packages hold no /usr/{program}")
        loader = "$here/criu-loader" if name == "criu" else "$root/" + _LOADER
        text = _WRAPPER.format(folder=final, loader=loader, name=name, libraries=libraries,
                               program=program, environment=_ENVIRONMENT.get(program, ""))
        path = os.path.join(folder, "bin", name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o755)
    os.symlink("bin/criu", os.path.join(folder, "criu"))


def _make(work, final):
    """Fills `work`, from the first choice that can be had."""
    uri, faults = mirror(), []
    for suites in _SUITES:
        folder = os.path.join(work, "apt")
        try:
            apt = Apt(folder, uri, suites)
            apt.update()
            versions = apt.plan("criu", *_GUESTS, *_TOOLS)
            apt.fetch([f"{name}={version}" for name, version in versions.items()])
            root = os.path.join(work, "rootfs")
            _unpack(apt.archives, root)
            _try(root)
        except Unavailable as error:
            faults.append(str(error))
            shutil.rmtree(os.path.join(work, "rootfs"), ignore_errors=True)
            continue
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        _finish(root)
        _write_wrappers(work, final)
        _describe(work, suites, versions)
        return
    raise Unavailable(" | ".join(faults))


def _describe(folder, suites, versions):
    with open(os.path.join(folder, "versions.json"), "w", encoding="utf-8") as file:
        json.dump({"suites": suites, "packages": versions}, file, indent=1)
    mains = ("criu", "runc", "crun", "libc6", "nginx-light", "nginx", "redis-server", "python3-minimal", "wrk", "iproute2",
             "nftables", "rsync")
    with open(os.path.join(folder, "README"), "w", encoding="utf-8") as file:
        file.write(f"Made by tests/containers/rig/build_rig.py of Debian {' and '.join(suites)}.\n"
                   "rootfs: the packages, unpacked. criu, bin/*: run its programs with its own libraries;\n"
                   "LD_PRELOAD reaches the program itself and nothing that it starts.\n\n")
        file.writelines(f"{name} {versions[name]}\n" for name in mains if name in versions)


def _recipe():
    """What a folder was made by: another recipe, another folder."""
    text = repr((_SUITES, _GUESTS, _TOOLS, _RUN_BY_WRAPPER, _FOLDERS, _PASSWD, _WRAPPER, _ENVIRONMENT))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def rig_in(folder, refresh=False):
    """Makes the rig of this folder where it is not there. One process makes it, others wait.

    What is in use stays where it is: the folder's entries are links to the newest one made."""
    os.makedirs(folder, exist_ok=True)
    final = os.path.join(folder, "rig-" + _recipe())
    with open(os.path.join(folder, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if refresh:
            shutil.rmtree(final, ignore_errors=True)
        if not os.path.exists(os.path.join(final, "versions.json")):
            for left in glob.glob(os.path.join(folder, "making-*")):
                shutil.rmtree(left)
            work = tempfile.mkdtemp(prefix="making-", dir=folder)
            try:
                _make(work, final)
                os.chmod(work, 0o755)
                os.rename(work, final)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        for name in ("rootfs", "criu", "bin", "README", "versions.json"):
            _point(os.path.join(folder, name), os.path.join(os.path.basename(final), name))
    return folder


def _point(path, to):
    if os.path.islink(path) and os.readlink(path) == to:
        return
    new = path + ".new"
    if os.path.lexists(new):
        os.unlink(new)
    os.symlink(to, new)
    os.rename(new, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--to", required=True, metavar="FOLDER")
    parser.add_argument("--refresh", action="store_true", help="fetch anew")
    arguments = parser.parse_args()
    try:
        folder = rig_in(os.path.abspath(arguments.to), arguments.refresh)
    except Unavailable as error:
        # As GoogleTest says it, for those who look for what was skipped.
        print(f"containers: Skipped\nthe container tests' CRIU cannot be had here: {error}")
        return SKIPPED
    with open(os.path.join(folder, "README"), encoding="utf-8") as file:
        print(file.read(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
