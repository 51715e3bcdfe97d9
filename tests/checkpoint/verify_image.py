#!/usr/bin/env python3
"""Checks checkpoint images against docs/image-format.md; with Python 3.9 alone.

    verify_image.py [--parent FILE]... IMAGE

Reads the image and its parents whole and compares every hash. Exit code 0 and a summary when all is
right; 1 with one line `CODE: FILE, byte N: what`, where CODE is integrity, version-mismatch,
incompatible, not-found, unsupported or invalid-argument; 2 for wrong usage. Frames are unpacked with
the `zstd` command; where it is absent the summary says how many pages were not looked into.
"""

import argparse
import os
import shutil
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "wire"))
# pylint: disable=wrong-import-position
from image_blocks import (DESCRIPTION, DIRECTORY, HEADER, INDEX, MAGIC, MASK, PACKED, PAGE, PART, RAW,
                          STATE, TRAILER, Block, Reader, Refused)
from xxh3 import DEFAULT_SECRET, xxh3_64


class Image:
    def __init__(self, path):
        self.path, self.id = path, b""
        self.notes = 0
        with open(path, "rb") as file:
            self.data = file.read()
        self.read_header()
        self.find_blocks()
        self.pages = {}  # location: hash
        for block in self.blocks:
            self.check_block(block)
        self.read_description()
        self.read_pages()
        self.read_state()
        self.read_directory()
        self.read_index()

    def broken(self, byte, text):
        raise Refused("integrity", self.path, byte, text)

    def payload(self, block):
        start = block.at + block.payload_at
        return self.data[start:start + block.payload]

    def page_hash(self, content):
        return xxh3_64(content, self.secret) or 1

    def read_header(self):
        data = self.data
        if len(data) < 4096 or struct.unpack_from("<I", data)[0] != MAGIC:
            raise Refused("invalid-argument", self.path, 0, "this is no checkpoint image")
        version, page = struct.unpack_from("<II", data, 64)
        if version != 1:
            raise Refused("version-mismatch", self.path, 64, "version %d, not 1" % version)
        self.id = data[72:88]
        self.parent = data[88:104]
        self.secret = data[104:296]
        flags, zero = struct.unpack_from("<II", data, 304)
        self.incremental = any(self.parent)
        if page != PAGE or not any(self.id) or self.id == self.parent or zero or \
                flags != int(self.incremental):
            self.broken(64, "HEADER contradicts itself")

    def find_blocks(self):
        size = len(self.data)
        if size % 4096 or size < 5 * 4096:
            self.broken(size, "it does not end with a TRAILER")
        last = self.data[size - 4096:]
        if struct.unpack_from("<IH", last) != (MAGIC, TRAILER):
            self.broken(size - 4096, "it does not end with a TRAILER")
        self.blocks, at = [], 0
        while at < size:
            block = Block(self, at)
            if block.length > size - at:
                self.broken(at, "the block goes beyond the file")
            self.blocks.append(block)
            at += block.length
        kinds = [b.type for b in self.blocks if not b.optional]
        middle = kinds[2:-2]
        indexes = middle.count(INDEX)
        content = middle[:len(middle) - indexes]
        if kinds[:2] != [HEADER, DESCRIPTION] or kinds[-2:] != [DIRECTORY, TRAILER] or \
                any(kind not in (RAW, PACKED, STATE) for kind in content):
            self.broken(0, "blocks stand where they must not")

    def check_block(self, block):
        data = self.data[block.at:block.at + block.length]
        secret = DEFAULT_SECRET if block.type in (HEADER, TRAILER) else self.secret
        inner = xxh3_64(data[64:block.hashed], secret)
        if xxh3_64(data[:56] + struct.pack("<Q", inner), secret) != block.hash:
            self.broken(block.at, "%s does not have its hash" % block.name())
        between = data[block.hashed:block.payload_at] if block.type == RAW else b""
        rest = data[block.payload_at + block.payload:]
        if any(between) or any(rest):
            self.broken(block.at, "there is something between the contents of %s" % block.name())

    def read_description(self):
        block = self.blocks[1]
        r = Reader(self, self.payload(block), block.at + 64)
        kind, state, _, self.vcpus = r.get("BBHI")
        self.tree = kind == 2
        if kind not in (1, 2) or state not in (1, 2):
            self.broken(block.at + 64, "neither guest nor run state")
        self.name, self.host, self.hint = r.text(), r.text(), r.text()
        count = r.get("I")
        if not 1 <= count <= 4096:
            self.broken(block.at + 64, "no such number of regions")
        self.regions = []
        for _ in range(count):
            space, number, _, _, first, pages = r.get("IIIIQQ")
            if pages == 0:
                self.broken(block.at + 64, "a region without pages")
            self.regions.append((space, number, first, pages))
        order = sorted((space, first, first + pages) for space, _, first, pages in self.regions)
        for before, after in zip(order, order[1:]):
            if before[0] == after[0] and after[1] < before[2]:
                self.broken(block.at + 64, "regions overlap")
        properties = r.get("I")
        if properties > 4096:
            self.broken(block.at + 64, "too many properties")
        r.sections(properties)
        r.end()

    def unpack(self, block):
        """The pages of a PACKED block, or None without the command."""
        frame, size = self.payload(block), block.count * PAGE
        if len(frame) < 9 or frame[:4] != b"\x28\xb5\x2f\xfd" or frame[4] & 0b1111:
            self.broken(block.at, "PACKED has no frame as it is to be")
        flag, single = frame[4] >> 6, frame[4] >> 5 & 1
        if not flag and not single:
            self.broken(block.at, "the frame does not say its size")
        field = frame[5 + (not single):][:(1, 2, 4, 8)[flag]]
        if int.from_bytes(field, "little") + (256 if flag == 1 else 0) != size:
            self.broken(block.at, "the frame is not as long as its pages")
        command = shutil.which("zstd")
        if command is None:
            self.notes += block.count
            return None
        done = subprocess.run([command, "-d", "-q", "-c"], input=frame, capture_output=True,
                              check=False)
        if done.returncode or len(done.stdout) != size:
            self.broken(block.at, "PACKED cannot be unpacked")
        return done.stdout

    def read_pages(self):
        for block in self.blocks:
            if block.type not in (RAW, PACKED):
                continue
            if block.region >= len(self.regions):
                self.broken(block.at, "pages of no region")
            content = self.payload(block) if block.type == RAW else self.unpack(block)
            before = -1
            for i in range(block.count):
                page, told = struct.unpack_from("<QQ", self.data, block.at + 64 + 16 * i)
                if page <= before or page >= self.regions[block.region][3]:
                    self.broken(block.at + 64 + 16 * i, "the table is out of order")
                before = page
                at = block.at + block.payload_at + i * PAGE
                location = at | 0xFFF if block.type == RAW else block.at | i
                if content is not None and \
                        self.page_hash(content[i * PAGE:(i + 1) * PAGE]) != told:
                    self.broken(at if block.type == RAW else block.at,
                                "page %d does not have its hash" % page)
                self.pages[location] = told

    def read_state(self):
        parts = [b for b in self.blocks if b.type == STATE]
        if not parts or [b.first for b in parts] != list(range(len(parts))) or \
                [b.flags & 1 for b in parts] != [0] * (len(parts) - 1) + [1] or \
                any(b.payload > 4 << 20 for b in parts):
            self.broken(0, "the parts of the state are not as they are to be")
        self.state_at = parts[0].at
        self.state = b"".join(self.payload(b) for b in parts)
        r = Reader(self, self.state, self.state_at)
        self.sections = r.sections(r.get("I"))
        r.end()

    def read_directory(self):
        block, trailer = self.blocks[-2], self.blocks[-1]
        if block.type != DIRECTORY:
            self.broken(block.at, "DIRECTORY is not the last but one")
        r = Reader(self, self.payload(block), block.at + 64)
        self.digest = r.get("Q")
        self.counts = r.get("QQQQ")
        state_at, state_bytes = r.get("QQ")
        if state_at != self.state_at or state_bytes != len(self.state):
            self.broken(block.at, "DIRECTORY contradicts the state")
        self.parts = [[r.get("QQ") for _ in range(0, pages, PART)]
                      for _, _, _, pages in self.regions]
        r.end()
        at, length, size, digest, owner, blocks = struct.unpack_from("<QQQQ16sQ", self.data,
                                                                     trailer.at + 64)
        if (at, length, size, digest, owner, blocks) != (
                block.at, block.length, len(self.data), self.digest, self.id, len(self.blocks)):
            self.broken(trailer.at, "TRAILER contradicts the file")

    def read_index(self):
        """index[region][page] = (location, hash)"""
        zero = self.page_hash(bytes(PAGE))
        self.zero_hash = zero
        left = {b.at: b for b in self.blocks if b.type == INDEX}
        self.index = []
        for region, parts in enumerate(self.parts):
            pages = self.regions[region][3]
            entries = []
            for number, (where, told) in enumerate(parts):
                count = min(PART, pages - number * PART)
                if where < 2:
                    if told or where == 1 and not self.incremental:
                        self.broken(self.blocks[-2].at, "DIRECTORY lists a part wrongly")
                    entries += [(where, zero if where == 0 else None)] * count
                    continue
                block = left.pop(where, None)
                if block is None or block.hash != told or block.region != region or \
                        block.first != number * PART or block.count != count or \
                        block.payload != 16 * count:
                    self.broken(where, "this is not the INDEX that the DIRECTORY names")
                found = list(struct.iter_unpack("<QQ", self.payload(block)))
                for i, entry in enumerate(found):
                    self.check_entry(entry, where + 4096 + 16 * i)
                entries += found
            self.index.append(entries)
        if left:
            self.broken(min(left), "no DIRECTORY names this INDEX")
        self.check_counts()

    def check_entry(self, entry, byte):
        location, told = entry
        if location == 0:
            right = told == self.zero_hash
        elif location == 1:
            right = self.incremental
        else:
            right = self.pages.get(location) == told
        if not right:
            self.broken(byte, "INDEX names a page that is not there")

    def check_counts(self):
        locations = [location for entries in self.index for location, _ in entries]
        stored = [location for location in locations if location > 1]
        distinct = len(set(stored))
        if self.counts != (distinct, locations.count(0), len(stored) - distinct,
                           locations.count(1)):
            self.broken(self.blocks[-2].at, "DIRECTORY counts other pages than the INDEX has")


def hash_of(parent, image, region, page):
    """What the parent has of this page; a process tree's is the one at the same address."""
    space, number, first, pages = image.regions[region]
    if parent.regions[region:region + 1] == [(space, number, first, pages)]:
        return parent.index[region][page][1]
    at = first + page
    for other, (there, _, begin, count) in enumerate(parent.regions):
        if there == space and begin <= at < begin + count:
            return parent.index[other][at - begin][1]
    image.broken(0, "page %d of region %d is in no region of the parent" % (page, region))
    return None


def resolve(chain):
    """Fills in the hashes that are the parents', and checks the digests: oldest first."""
    for i in range(len(chain) - 1, -1, -1):
        image = chain[i]
        digest = 0
        for region, entries in enumerate(image.index):
            for page, (location, told) in enumerate(entries):
                if location == 1:
                    before = hash_of(chain[i + 1], image, region, page)
                    if told is not None and told != before:
                        image.broken(0, "page %d of region %d is not as in the parent" %
                                     (page, region))
                    told = before
                    entries[page] = (1, told)
                if told != image.zero_hash:
                    digest += xxh3_64(struct.pack("<QQQ", region, page, told), image.secret)
        if digest & MASK != image.digest:
            image.broken(image.blocks[-2].at, "the digest is not that of the pages")


def parent_of(image, given):
    folder = os.path.dirname(image.path)
    hint = os.fsdecode(image.hint)
    places = [os.path.join(folder, hint), os.path.join(folder, os.path.basename(hint))]
    seen = []
    for path in given + places:
        if not os.path.isfile(path):
            continue
        with open(path, "rb") as file:
            found = file.read(88)[72:]
        if found == image.parent:
            return Image(path)
        seen.append("%s is image %s" % (path, found.hex()))
    code = "incompatible" if seen else "not-found"
    raise Refused(code, image.path, 24, "parent %s not found; %s" % (image.parent.hex(),
                                                                      "; ".join(seen) or hint))


def load(path, given):
    chain = [Image(path)]
    ids = {chain[0].id}
    while chain[-1].incremental:
        child = chain[-1]
        parent = parent_of(child, given)
        if parent.id in ids or len(chain) == 1024:
            raise Refused("integrity", child.path, 24, "the chain has no end")
        trees = parent.tree and child.tree
        if parent.secret != child.secret or (parent.regions != child.regions and not trees):
            raise Refused("incompatible", child.path, 24, "its parent is another guest's")
        ids.add(parent.id)
        chain.append(parent)
    resolve(chain)
    return chain


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parent", action="append", default=[], metavar="FILE")
    parser.add_argument("image")
    options = parser.parse_args()
    try:
        chain = load(options.image, options.parent)
    except Refused as refused:
        print(refused)
        return 1
    except OSError as error:
        print("not-found: %s" % error)
        return 1
    for image in chain:
        print("%s: image %s, %d blocks, %d bytes, pages: %d stored, %d zero, %d duplicate, "
              "%d parent's; %d sections; digest %016x" %
              (image.path, image.id.hex(), len(image.blocks), len(image.data), *image.counts,
               len(image.sections), image.digest))
    skipped = sum(image.notes for image in chain)
    if skipped:
        print("%d pages were not looked into: there is no zstd command" % skipped)
    print("valid")
    return 0


if __name__ == "__main__":
    sys.exit(main())
