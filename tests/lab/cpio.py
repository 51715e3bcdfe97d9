"""A cpio archive of format newc, as the kernel unpacks it at boot
(Documentation/driver-api/early-userspace/buffer-format.rst)."""

import os
import stat


class Archive:
    """Files by their absolute paths; the folders above them come by themselves."""

    def __init__(self, file):
        self._file = file
        self._inode = 0
        self._names = {"/"}

    def _entry(self, path, mode, content=b"", device=(0, 0)):
        self._inode += 1
        name = path.lstrip("/").encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        self._file.write(header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4))

    def folder(self, path, mode=0o755):
        if path in self._names:
            return
        self.folder(os.path.dirname(path))
        self._names.add(path)
        self._entry(path, stat.S_IFDIR | mode)

    def _new(self, path):
        """False for a path that is there already."""
        if path in self._names:
            return False
        self.folder(os.path.dirname(path))
        self._names.add(path)
        return True

    def file(self, path, content, mode=0o644):
        if self._new(path):
            self._entry(path, stat.S_IFREG | mode, content)

    def symlink(self, path, target):
        if self._new(path):
            self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path, major, minor):
        if self._new(path):
            self._entry(path, stat.S_IFCHR | 0o600, device=(major, minor))

    def close(self):
        self._entry("TRAILER!!!", 0)
