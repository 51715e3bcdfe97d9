"""A Linux guest for the lab's machine: the lab's own kernel, and an initrd of busybox and a job."""

import io
import os

from cpio import Archive

_HERE = os.path.dirname(os.path.abspath(__file__))
# What the cloud kernel lacks for the VMM's devices until it is loaded.
MODULES = ("virtio_mmio", "virtio_blk", "virtio_net", "pvpanic-mmio")
_FOLDERS = ("/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/etc")


def initrd(busybox, commands, modules, job):
    """`busybox`: its program; `commands`: names it goes by; `modules`: contents by name, in order; `job`: a
    shell script, which guest_init.sh runs."""
    file = io.BytesIO()
    archive = Archive(file)
    for folder in _FOLDERS:
        archive.folder(folder)
    archive.character_device("/dev/console", 5, 1)
    archive.file("/bin/busybox", busybox, 0o755)
    with open(os.path.join(_HERE, "guest_init.sh"), "rb") as init:
        archive.file("/init", init.read(), 0o755)
    archive.file("/job", job)
    for number, (name, content) in enumerate(modules.items()):
        archive.file(f"/modules/{number:02}-{name}.ko", content)
    archive.file("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    for name in commands:
        archive.symlink("/bin/" + name, "busybox")
    archive.close()
    return file.getvalue()
