"""The blocks of checkpoint images and the fields in them, after docs/image-format.md."""

import struct

PAGE = 4096
MAGIC = 0x4B4C424D
HEADER, DESCRIPTION, RAW, PACKED, STATE, INDEX, DIRECTORY, TRAILER = range(1, 9)
NAMES = ["", "HEADER", "DESCRIPTION", "RAW", "PACKED", "STATE", "INDEX", "DIRECTORY", "TRAILER"]
OPTIONAL = 0x8000
PART = 4096
MASK = (1 << 64) - 1


class Refused(Exception):
    def __init__(self, code, path, byte, text):
        super().__init__("%s: %s, byte %d: %s" % (code, path, byte, text))


def up(size):
    return (size + 4095) & ~4095


class Reader:
    """Fields of a payload, one after the other."""

    def __init__(self, image, data, byte):
        self.image, self.data, self.byte, self.at = image, data, byte, 0

    def take(self, size):
        if len(self.data) - self.at < size:
            self.image.broken(self.byte + self.at, "it is cut short")
        self.at += size
        return self.data[self.at - size:self.at]

    def get(self, form):
        values = struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))
        return values[0] if len(values) == 1 else values

    def text(self, limit=4096):
        size = self.get("H")
        if size > limit:
            self.image.broken(self.byte + self.at, "a text is too long")
        return self.take(size)

    def sections(self, count):
        found = []
        for _ in range(count):
            name = self.text(64)
            if not name or not set(name) <= set(b"abcdefghijklmnopqrstuvwxyz0123456789._-"):
                self.image.broken(self.byte + self.at, "a section has a wrong name")
            version, _, size = self.get("IBQ")
            found.append((name.decode(), version, size))
            self.take(size)
        return found

    def end(self):
        if self.at != len(self.data):
            self.image.broken(self.byte + self.at, "it goes on after its end")


class Block:
    """A block's head, checked as far as it goes without the content."""

    def __init__(self, image, at):
        head = image.data[at:at + 64]
        if len(head) < 64:
            image.broken(at, "the file ends in a block's head")
        (magic, self.type, self.region, self.length, offset, owner, self.count, self.flags,
         self.first, self.payload, self.hash) = struct.unpack("<IHHQQQIIQQQ", head)
        self.at = at
        if magic != MAGIC:
            image.broken(at, "no block begins there")
        if offset != at or (image.id and owner != struct.unpack("<Q", image.id[:8])[0]):
            image.broken(at, "the block is not of this place, or not of this image")
        self.optional = bool(self.type & OPTIONAL)
        if not self.optional and not HEADER <= self.type <= TRAILER:
            raise Refused("unsupported", image.path, at, "unknown type %d" % self.type)
        limit = 8 << 20 if self.type in (RAW, PACKED, INDEX) else 64 << 20
        if self.length == 0 or self.length % 4096 or self.length > limit:
            image.broken(at, "the block's length is wrong")
        if self.type in (RAW, PACKED):
            if not 1 <= self.count <= 4032:
                image.broken(at, "wrong number of pages")
            table = 64 + 16 * self.count
            self.payload_at = up(table) if self.type == RAW else table
            self.hashed = table
            if self.type == RAW and self.payload != self.count * PAGE:
                image.broken(at, "the payload is not as long as its pages")
        else:
            self.payload_at = 4096 if self.type == INDEX else 64
            self.hashed = self.payload_at + self.payload
        needed = up(self.payload_at + self.payload)
        if needed > self.length or (not self.optional and needed != self.length):
            image.broken(at, "the block's length is not what it needs")

    def name(self):
        return "optional" if self.optional else NAMES[self.type]
