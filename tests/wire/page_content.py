"""What is in a batch: zstd frames, patches and deltas.

Written from docs/wire-format.md. The frame around packed content is checked here; what is in its
blocks the `zstd` command unpacks. Without that command packed content stays unknown, which
Unpacker.skipped counts.
"""

import shutil
import struct
import subprocess

PAGE = 4096
RAW, ZEROS, DELTA, DUPLICATE = 1, 2, 3, 4
NO_CODEC, ZSTD = 0, 1
DUPLICATE_BYTES = 12
_MAGIC = 0xFD2FB528
_WINDOW_MAX = 2 << 20


class Broken(Exception):
    """A broken rule, and the byte in the content where."""

    def __init__(self, rule, text, byte=0):
        super().__init__(text)
        self.rule, self.text, self.byte = rule, text, byte


def content_bounds(table):
    """How long the unpacked content may be, by the table's encodings."""
    least = {RAW: PAGE, ZEROS: 0, DELTA: 3, DUPLICATE: 2 + DUPLICATE_BYTES}
    low = sum(least[encoding] for encoding in table)
    return low, low + sum(PAGE - least[DELTA] for encoding in table if encoding == DELTA)


def _frame_header(data):
    """(bytes of the header, content size) of a zstd frame (RFC 8878, 3.1.1.1)."""
    if len(data) < 5 or struct.unpack_from("<I", data)[0] != _MAGIC:
        raise Broken("packed", "not a zstd frame")
    descriptor = data[4]
    if descriptor & 0b1111:
        raise Broken("packed", "checksum, dictionary or the reserved bit", 4)
    size_flag, single = descriptor >> 6, descriptor >> 5 & 1
    if size_flag == 0 and not single:
        raise Broken("packed", "no Frame_Content_Size", 4)
    at = 5 + (not single)
    end = at + (1, 2, 4, 8)[size_flag]
    if len(data) < end:
        raise Broken("packed", "the frame's header is cut short", 5)
    if not single:
        base = 1 << 10 + (data[5] >> 3)
        if base + base // 8 * (data[5] & 7) > _WINDOW_MAX:
            raise Broken("packed", "Window_Size is beyond 2 MiB", 5)
    size = int.from_bytes(data[at:end], "little") + (256 if size_flag == 1 else 0)
    return end, size


def _frame_end(data, at):
    """Where the frame whose blocks begin at `at` ends (RFC 8878, 3.1.1.2)."""
    while True:
        if len(data) - at < 3:
            raise Broken("packed", "a block's header is cut short", at)
        header = int.from_bytes(data[at:at + 3], "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        if kind == 3:
            raise Broken("packed", "a block of the reserved type", at)
        at += 3 + (1 if kind == 1 else size)
        if at > len(data):
            raise Broken("packed", "a block is cut short", at)
        if last:
            return at


class Unpacker:
    def __init__(self):
        self.command = shutil.which("zstd")
        self.skipped = 0

    def unpack(self, packed, bounds):
        """The content, or None when no command is there to unpack it."""
        at, size = _frame_header(packed)
        if not bounds[0] <= size <= bounds[1]:
            raise Broken("packed", "%d bytes, the table allows %d to %d" % (size, *bounds), at)
        if len(packed) >= size:
            raise Broken("packed", "it is not smaller than the %d bytes in it" % size)
        if _frame_end(packed, at) != len(packed):
            raise Broken("packed", "bytes follow the frame", _frame_end(packed, at))
        if self.command is None:
            self.skipped += 1
            return None
        result = subprocess.run([self.command, "-d", "-q", "-c"], input=packed,
                                capture_output=True, check=False)
        if result.returncode != 0 or len(result.stdout) != size:
            raise Broken("packed", "zstd: %s" % (result.stderr.decode().strip() or "wrong size"))
        return result.stdout


def split(encodings, content):
    """For each entry its part of the content: a page, a delta, (region, page), or None."""
    at = PAGE * encodings.count(RAW)
    if len(content) < at:
        raise Broken("page-table", "%d bytes do not hold the raw pages" % len(content))
    parts, raw = [], 0
    for encoding in encodings:
        part = None
        if encoding == RAW:
            part = content[raw:raw + PAGE]
            raw += PAGE
        elif encoding != ZEROS:
            part = content[at + 2:at + 2 + int.from_bytes(content[at:at + 2], "little")]
            if len(content) - at < 2 or len(part) != int.from_bytes(content[at:at + 2], "little"):
                raise Broken("patch", "a patch is cut short", at)
            if encoding == DELTA and not 1 <= len(part) <= PAGE - 2:
                raise Broken("patch", "a delta of %d bytes" % len(part), at)
            if encoding == DUPLICATE and len(part) != DUPLICATE_BYTES:
                raise Broken("patch", "a duplicate of %d bytes" % len(part), at)
            at += 2 + len(part)
            if encoding == DUPLICATE:
                part = struct.unpack("<IQ", part)
        parts.append(part)
    if at != len(content):
        raise Broken("patch", "bytes are left over", at)
    return parts


def _varint(delta, at):
    value = shift = 0
    while True:
        if at == len(delta) or shift > 7:
            raise Broken("patch", "a varint is too long or cut short", at)
        byte = delta[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            if byte == 0 and shift:
                raise Broken("patch", "a varint is longer than it need be", at)
            return value, at
        shift += 7


def apply_delta(base, delta):
    """The page that `delta` makes of `base`."""
    page, reached, at = bytearray(base), 0, 0
    while at < len(delta):
        first = at == 0
        copied, at = _varint(delta, at)
        changed, at = _varint(delta, at)
        if copied == 0 and not first or changed == 0:
            raise Broken("patch", "an operation of no bytes", at)
        reached += copied
        if reached + changed > PAGE or len(delta) - at < changed:
            raise Broken("patch", "an operation goes beyond the page or the patch", at)
        page[reached:reached + changed] = delta[at:at + changed]
        reached += changed
        at += changed
    return bytes(page)
