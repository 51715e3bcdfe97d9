"""The lab's initramfs: busybox, kernel modules, this project's programs with their libraries, a job."""

import glob
import lzma
import os
import re
import shlex
import subprocess
import tempfile

import guest_image
from build_lab import Unavailable
from cpio import Archive

_HERE = os.path.dirname(os.path.abspath(__file__))
# What the kernel lacks until it is loaded; what they depend on comes along.
_MODULES = ("kvm-amd", "tun", "veth", "bridge", "sch_netem", "sch_tbf", "tls", "virtio_net",
            "virtio_blk")
_FOLDERS = ("/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/etc")


def _modules_in_order(folder, wanted):
    """Contents of the wanted modules by name, each after those it needs."""
    paths = {os.path.basename(path).split(".ko")[0].replace("-", "_"): path
             for path in glob.glob(os.path.join(folder, "kernel", "**", "*.ko*"), recursive=True)}
    order = {}

    def add(name):
        name = name.replace("-", "_")
        if name in order:
            return
        if name not in paths:
            raise Unavailable(f"the kernel in {folder} has no module {name}")
        with (lzma.open if paths[name].endswith(".xz") else open)(paths[name], "rb") as file:
            content = file.read()
        needs = re.search(rb"\0depends=([^\0]*)\0", content)
        for need in needs[1].decode().split(",") if needs else ():
            if need:
                add(need)
        order[name] = content

    for name in wanted:
        add(name)
    return order


def _is_program(path):
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _libraries(program):
    """What the loader opens for it, the loader included."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True)
    if listed.returncode != 0:
        return []  # Static.
    missing = re.findall(r"^\s*(\S+) => not found", listed.stdout, re.MULTILINE)
    if missing:
        raise FileNotFoundError(f"{program} needs {', '.join(missing)}, which are not installed here")
    return re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listed.stdout, re.MULTILINE)


def _stripped(path):
    """Debug information would be most of what the machine has to unpack."""
    with tempfile.NamedTemporaryFile() as copy:
        subprocess.run(["strip", "-o", copy.name, path], check=True, capture_output=True)
        with open(copy.name, "rb") as file:
            return file.read()


def _add_host_file(archive, path):
    """A file of this machine, at its own path there; a program with its libraries."""
    path = os.path.abspath(path)
    if not _is_program(path):
        with open(path, "rb") as file:
            archive.file(path, file.read(), 0o755 if os.access(path, os.X_OK) else 0o644)
        return
    archive.file(path, _stripped(path), 0o755)
    for library in _libraries(path):
        with open(library, "rb") as file:
            archive.file(library, file.read(), 0o755)


def _add_folder(archive, path, but=()):
    """A folder of this machine with all that is in it, as it is, at its own path."""
    for folder, names, files in os.walk(os.path.abspath(path)):
        if folder in but:
            names.clear()
            continue
        archive.folder(folder)
        for name in names + files:
            inside = os.path.join(folder, name)
            if os.path.islink(inside):
                archive.symlink(inside, os.readlink(inside))
            elif name in files:
                with open(inside, "rb") as file:
                    archive.file(inside, file.read(), os.stat(inside).st_mode & 0o7777)


def _add_rig(archive, path):
    """What tests/containers/rig/build_rig.py has made; documentation is left out."""
    if not os.path.exists(os.path.join(path, "criu")):
        raise FileNotFoundError(f"{path} is no rig of the container tests; make it with "
                                "tests/containers/rig/build_rig.py")
    made = os.path.dirname(os.path.realpath(os.path.join(path, "versions.json")))
    _add_folder(archive, made, but=(os.path.join(made, "rootfs/usr/share"),))
    for name in os.listdir(path):
        link = os.path.join(os.path.abspath(path), name)
        if os.path.islink(link):
            archive.symlink(link, os.readlink(link))


def _add_guest(archive, lab, busybox, commands, job):
    """/guest/vmlinuz and /guest/initrd."""
    with open(lab.kernel, "rb") as kernel:
        archive.file("/guest/vmlinuz", kernel.read())
    with open(job, "rb") as script:
        archive.file("/guest/initrd", guest_image.initrd(
            busybox, commands, _modules_in_order(lab.modules, guest_image.MODULES), script.read()))


def write(lab, path, command, environment, files, guest_job=None, folders=(), rig=None, modules=()):
    """`command`: words; `files`: of this machine, to be there as well; `guest_job`: a shell script that a
    Linux guest of that machine runs; `folders`: of this machine; `rig`: of the container tests; `modules`: to be
    loaded as well."""
    if os.path.isfile(command[0]):
        command = [os.path.abspath(command[0]), *command[1:]]
    with open(path, "wb") as file:
        archive = Archive(file)
        for folder in _FOLDERS:
            archive.folder(folder)
        archive.character_device("/dev/console", 5, 1)
        with open(lab.busybox, "rb") as file_of_busybox:
            busybox = file_of_busybox.read()
        archive.file("/bin/busybox", busybox, 0o755)
        names = subprocess.run([lab.busybox, "--list"], check=True, capture_output=True, text=True)
        if guest_job is not None:
            _add_guest(archive, lab, busybox, names.stdout.split(), guest_job)
        with open(os.path.join(_HERE, "init.sh"), "rb") as init:
            archive.file("/init", init.read(), 0o755)
        for number, (name, content) in enumerate(_modules_in_order(lab.modules, (*_MODULES, *modules)).items()):
            archive.file(f"/modules/{number:02}-{name}.ko", content)
        archive.file("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        archive.file("/etc/group", b"root:x:0:\n")
        job = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
        archive.file("/job", (job + "exec " + shlex.join(command) + "\n").encode())
        for name in [command[0], *files]:
            if os.path.isfile(name):
                _add_host_file(archive, name)
            elif name in files:
                raise FileNotFoundError(f"{name} is not there")
        for folder in folders:
            _add_folder(archive, folder)
        if rig:
            _add_rig(archive, rig)
        # After the programs of this machine, which are to be preferred.
        for name in names.stdout.split():
            archive.symlink("/bin/" + name, "busybox")
        archive.close()
