"""How bytes become records: the capture container, the framing and every record's fields.

Written from docs/wire-format.md, not from the C++ sources. Knows nothing of what may follow what;
that is stream_rules.py.
"""

import struct

import page_content
from page_content import DELTA, DUPLICATE, NO_CODEC, PAGE, RAW, ZEROS
from xxh3 import xxh3_64

TO_TARGET, TO_SOURCE = 0, 1
DIRECTIONS = ("source to target", "target to source")

HEADER = 24
BATCH_HEADER, ENTRY = 24, 16
ENTRIES_MAX = 512
PAGE_NUMBER_MAX = 1 << 52
REGIONS_MAX = 16384
UNKEYED, KEYED, EITHER = "unkeyed", "keyed", "either"

_CAPTURE_MAGIC = b"MIGCAP1\n"
_ERROR_MAX = 2 + 1 + 1 + 4 + 4 + 4096 + 4 + 1024

# type: (name, longest body, keying)
TYPES = {
    0x0001: ("HELLO", 2 << 20, UNKEYED),
    0x0002: ("WELCOME", 192 + 255, UNKEYED),
    0x0003: ("JOIN", 51, UNKEYED),
    0x0004: ("JOINED", 2, KEYED),
    0x0005: ("ASK", 48, UNKEYED),
    0x0006: ("ANSWER", 22, UNKEYED),
    0x0007: ("ERROR", _ERROR_MAX, EITHER),
    0x0008: ("PING", 16, KEYED),
    0x0009: ("PONG", 16, KEYED),
    0x000A: ("RESUME", 52, UNKEYED),
    0x000B: ("RESUMED", 12, KEYED),
    0x000C: ("RESUME_TERMS", 4, KEYED),
    0x0010: ("REGIONS", 1 << 20, KEYED),
    0x0011: ("PAGES", BATCH_HEADER + ENTRIES_MAX * (ENTRY + PAGE), KEYED),
    0x0012: ("BARRIER", 21, KEYED),
    0x0013: ("BARRIER_ACK", 12, KEYED),
    0x0014: ("VOID", 16 + (1 << 20), KEYED),
    0x0015: ("VOID_END", 16, KEYED),
    0x0016: ("VOIDED", 8, KEYED),
    0x0020: ("SECTION_BEGIN", 9 + 64, KEYED),
    0x0021: ("SECTION_DATA", 1 << 20, KEYED),
    0x0022: ("SECTION_END", 8, KEYED),
    0x0023: ("STATE_END", 12, KEYED),
    0x0030: ("OFFER", 30, KEYED),
    0x0031: ("READY", 52, KEYED),
    0x0032: ("COMMIT", 4, KEYED),
    0x0033: ("STARTED", 12, KEYED),
    0x0034: ("RELEASED", 4, KEYED),
    0x0035: ("ABORT", 5 + _ERROR_MAX, KEYED),
    0x0036: ("DISCARDED", 5 + _ERROR_MAX, KEYED),
    0x0037: ("FORWARD", 8 + 65600, KEYED),
    0x0040: ("LAZY", 9, KEYED),
    0x0041: ("LAZY_TERMS", 4 + REGIONS_MAX * 8, KEYED),
    0x0042: ("DEMAND", 4 + 256 * 16, KEYED),
    0x0043: ("INSTALLED", 16 + (1 << 20), KEYED),
    0x0044: ("COMPLETE", 60 + 4096 * 8, KEYED),
    0x8001: ("ALIVE", 0, KEYED),
}
OPTIONAL_BIT, OPTIONAL_MAX = 0x8000, 64 << 10
FLAG_KEYED = 1


class Violation(Exception):
    """A broken rule: its short name, what is wrong, and the byte in the record where."""

    def __init__(self, rule, text, byte=0):
        super().__init__(text)
        self.rule, self.text, self.byte = rule, text, byte


def read_capture(data):
    """Yields (connection, direction, bytes) of a capture file."""
    if data[:8] != _CAPTURE_MAGIC:
        raise Violation("container", "not a capture file")
    at = 8
    while at < len(data):
        if len(data) - at < 7:
            raise Violation("container", "the file ends inside a frame's header", at)
        connection, direction, length = struct.unpack_from("<HBI", data, at)
        if direction > 1 or len(data) - at - 7 < length:
            raise Violation("container", "a frame has no valid direction or length", at)
        yield connection, direction, data[at + 7:at + 7 + length]
        at += 7 + length


class Record:
    def __init__(self, number, flags, sequence, body):
        self.type, self.flags, self.sequence, self.body = number, flags, sequence, body
        self.name = TYPES[number][0] if number in TYPES else "0x%04x" % number


class Stream:
    """One direction of one connection: cuts the bytes into records and checks the framing."""

    def __init__(self, connection, direction):
        self.connection, self.direction = connection, direction
        self.buffer = bytearray()
        self.offset = 0  # Of buffer[0] in the stream.
        self.sequence = 0
        self.closed = False  # After ERROR.

    def take_record(self, secret):
        """The next record with its byte in the stream, or None when it is not all there."""
        if len(self.buffer) < HEADER:
            return None
        number, flags, length, sequence, checksum = struct.unpack_from("<HHIQQ", self.buffer)
        self._check_header(number, flags, length, sequence)
        if len(self.buffer) < HEADER + length:
            return None
        body = bytes(self.buffer[HEADER:HEADER + length])
        record = Record(number, flags, sequence, body)
        self._check_sum(record, checksum, secret)
        del self.buffer[:HEADER + length]
        offset, self.offset = self.offset, self.offset + HEADER + length
        self.sequence += 1
        return record, offset

    def _check_header(self, number, flags, length, sequence):
        if number not in TYPES and not number & OPTIONAL_BIT:
            raise Violation("type", "type 0x%04x is not known" % number)
        _, longest, keying = TYPES.get(number, ("", OPTIONAL_MAX, EITHER))
        if flags & ~FLAG_KEYED or keying == (UNKEYED if flags else KEYED):
            raise Violation("flags", "flags 0x%04x do not fit" % flags, 2)
        if length > longest:
            raise Violation("length", "length %d is beyond the type's %d" % (length, longest), 4)
        if sequence != self.sequence:
            raise Violation("sequence", "sequence %d, %d is due" % (sequence, self.sequence), 8)

    def _check_sum(self, record, checksum, secret):
        head = record.body
        if record.name == "PAGES":
            if len(head) < BATCH_HEADER + ENTRY:
                raise Violation("length", "no room for a batch", 4)
            head = head[:BATCH_HEADER + ENTRY * struct.unpack_from("<H", head, 8)[0]]
        if record.flags & FLAG_KEYED and secret is None:
            raise Violation("flags", "keyed before WELCOME", 2)
        chosen = {"secret": secret} if record.flags & FLAG_KEYED else {}
        fields = struct.pack("<HHIQ", record.type, record.flags, len(record.body), record.sequence)
        inner = struct.pack("<Q", xxh3_64(head, **chosen))
        if xxh3_64(fields + inner, **chosen) != checksum:
            raise Violation("checksum", "the checksum does not match", 16)


class Fields:
    """Reads fields from a body in order."""

    def __init__(self, body):
        self.body, self.at = body, 0

    def bytes(self, size):
        if len(self.body) - self.at < size:
            raise Violation("field", "the record ends too early", HEADER + self.at)
        self.at += size
        return self.body[self.at - size:self.at]

    def number(self, code):
        return struct.unpack("<" + code, self.bytes(struct.calcsize(code)))[0]

    def bounded(self, code, low, high, what):
        at = self.at
        value = self.number(code)
        if not low <= value <= high:
            raise Violation("field", "%s %d is not %d to %d" % (what, value, low, high),
                            HEADER + at)
        return value

    def text(self, longest, what):
        at = self.at
        raw = self.bytes(self.bounded("I", 0, longest, "length of " + what))
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise Violation("field", what + " is not UTF-8", HEADER + at) from None
        if any(ord(c) < 32 and c != "\n" or 0x7F <= ord(c) <= 0x9F for c in text):
            raise Violation("field", what + " has control characters", HEADER + at)
        return text

    def name(self, longest, what):
        text = self.text(longest, what)
        if "\n" in text:
            raise Violation("field", what + " has control characters", HEADER + self.at - len(text))
        return text

    def section(self):
        name = self.text(64, "section name")
        if not name or set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789._-"):
            raise Violation("field", "section name is not [a-z0-9._-]", HEADER + self.at)
        return {"name": name, "version": self.number("I"),
                "mandatory": self.bounded("B", 0, 1, "mandatory")}

    def region(self):
        region = {"id": (self.number("I"), self.number("I"), self.number("I")),
                  "first": self.number("Q"), "count": self.number("Q")}
        if not 0 < region["count"] <= PAGE_NUMBER_MAX - min(region["first"], PAGE_NUMBER_MAX):
            raise Violation("field", "a region is empty or too far up", HEADER + self.at - 8)
        self.bounded("B", 0, 4, "backing")
        return region

    def regions(self):
        return [self.region() for _ in range(self.bounded("I", 0, REGIONS_MAX, "regions"))]

    def error(self):
        return {"code": self.number("H"), "phase": self.number("B"), "side": self.number("B"),
                "errno": self.number("i"), "message": self.text(4096, "message"),
                "remedy": self.text(1024, "remedy")}

    def limits(self):
        return {"batch_entries": self.bounded("I", 1, ENTRIES_MAX, "batch entries"),
                "chunk_bytes": self.bounded("I", 1, 1 << 20, "chunk bytes"),
                "state_bytes": self.number("Q")}

    def random(self):
        random = self.bytes(96)
        if not any(random):
            raise Violation("field", "the random bytes are all 0", HEADER + self.at - 96)
        return random

    def codecs(self, into):
        for what, base in (("encodings", 1 << RAW | 1 << ZEROS), ("codecs", 1)):
            into[what] = self.number("I")
            if into[what] & base != base:
                raise Violation("field", what + " lack version 1's", HEADER + self.at - 4)


def _hello(f):
    if f.bytes(8) != b"MIGRATE1":
        raise Violation("field", "not migrate's protocol", HEADER)
    hello = {"version_min": f.number("H"), "version_max": f.number("H"),
             "features": f.number("Q"), "session": f.bytes(16), "page_size": f.number("I"),
             "bulk_lanes": f.bounded("H", 1, 64, "bulk lanes")}
    f.codecs(hello)
    hello.update(limits=f.limits(), random=f.random(), boot=f.bytes(16),
                 strategy=f.bounded("B", 0, 4, "strategy"), verify=f.bounded("B", 0, 1, "verify"),
                 max_downtime_us=f.number("Q"), host=f.name(255, "host"),
                 kind=f.bounded("B", 1, 2, "guest kind"), guest=f.name(255, "guest name"),
                 vcpus=f.bounded("I", 0, 65536, "vCPUs"), regions=f.regions())
    left = 1 << 20
    for _ in range(f.bounded("I", 0, 64, "properties")):
        f.section()
        left -= len(f.bytes(f.bounded("I", 0, min(left, 512 << 10), "property")))
    return hello


def _welcome(f):
    welcome = {"version": f.number("H"), "features": f.number("Q"),
               "bulk_lanes": f.bounded("H", 1, 64, "bulk lanes")}
    f.codecs(welcome)
    welcome.update(limits=f.limits(), random=f.random(), secret=f.bytes(32), boot=f.bytes(16),
                   load_us=f.number("Q"), host=f.name(255, "host"))
    return welcome


def _regions(f):
    change = {"first": f.number("I"), "added": f.regions()}
    change["removed"] = [f.number("I") for _ in range(f.bounded("I", 0, REGIONS_MAX, "removed"))]
    return change


def _void(f):
    void = {"region": f.number("I"), "first": f.number("Q")}
    if void["first"] % 64:
        raise Violation("field", "the first page is not a multiple of 64", HEADER + 4)
    void["words"] = [f.number("Q") for _ in range(f.bounded("I", 0, 1 << 17, "words"))]
    return void


def _granule(f):
    granule = (f.number("I"), f.bounded("I", 2, 512, "granule"))
    if granule[1] & (granule[1] - 1):
        raise Violation("field", "a granule that is no power of two", HEADER + f.at - 4)
    return granule


def _complete(f):
    complete = _numbers(("pages", "Q"), ("digest", "Q"), ("faults", "Q"), ("local", "Q"),
                        ("p50", "Q"), ("p99", "Q"), ("max", "Q"))(f)
    complete["stalls"] = [f.number("Q") for _ in range(f.bounded("I", 0, 4096, "stalls"))]
    return complete


def _ended(f):
    return {"attempt": f.number("I"), "scope": f.bounded("B", 1, 2, "scope"), "error": f.error()}


def _offer(f):
    offer = {"attempt": f.number("I"), "run_state": f.bounded("B", 1, 2, "run state"),
             "has_full": f.bounded("B", 0, 1, "has_full_digest"), "digest": f.number("Q"),
             "full": f.number("Q"), "total_pages": f.number("Q")}
    if offer["full"] and not offer["has_full"]:
        raise Violation("field", "a full digest that is said not to be there", HEADER + 14)
    return offer


def _numbers(*fields):
    return lambda f: {name: f.number(code) for name, code in fields}


_PARSERS = {
    "HELLO": _hello, "WELCOME": _welcome, "REGIONS": _regions, "OFFER": _offer,
    "ABORT": _ended, "DISCARDED": _ended, "ERROR": Fields.error, "SECTION_BEGIN": Fields.section,
    "JOIN": lambda f: {"session": f.bytes(16), "lane": f.bounded("H", 1, 65, "lane"),
                       "role": f.bounded("B", 1, 2, "role"), "proof": f.bytes(32)},
    "JOINED": _numbers(("lane", "H")),
    "ASK": lambda f: {"session": f.bytes(16), "proof": f.bytes(32)},
    "ANSWER": lambda f: {"state": f.bounded("B", 0, 5, "journal state"),
                         "attempt": f.number("I"), "boot": f.bytes(16),
                         "process_lives": f.bounded("B", 0, 1, "process_lives")},
    "ALIVE": _numbers(),
    "PING": _numbers(("nonce", "Q"), ("time", "Q")),
    "PONG": _numbers(("nonce", "Q"), ("time", "Q")),
    "BARRIER": lambda f: {"round": f.number("I"), "final": f.bounded("B", 0, 1, "final"),
                          "pages": f.number("Q"), "change": f.number("Q")},
    "BARRIER_ACK": _numbers(("round", "I"), ("digest", "Q")),
    "RESUME": lambda f: {"session": f.bytes(16), "proof": f.bytes(32), "round": f.number("I")},
    "RESUMED": _numbers(("round", "I"), ("digest", "Q")),
    "RESUME_TERMS": lambda f: {"window": f.bounded("I", 0, 86400000, "window")},
    "VOID": _void, "VOID_END": _numbers(("pages", "Q"), ("digest", "Q")),
    "VOIDED": _numbers(("digest", "Q")),
    "SECTION_END": _numbers(("bytes", "Q")),
    "STATE_END": _numbers(("sections", "I"), ("bytes", "Q")),
    "READY": _numbers(("attempt", "I"), ("lease_ns", "Q"), ("digest", "Q"), ("final_apply", "Q"),
                      ("verify", "Q"), ("load", "Q"), ("acquire", "Q")),
    "COMMIT": _numbers(("attempt", "I")),
    "STARTED": _numbers(("attempt", "I"), ("start_us", "Q")),
    "RELEASED": _numbers(("attempt", "I")),
    "LAZY": lambda f: {"round": f.number("I"), "window": f.bounded("I", 0, 86400000, "window"),
                       "installed": f.bounded("B", 0, 1, "installed")},
    "LAZY_TERMS": lambda f: {"granules": [_granule(f) for _ in range(
        f.bounded("I", 0, REGIONS_MAX, "granules"))]},
    "DEMAND": lambda f: {"wanted": [
        (f.number("I"), f.bounded("Q", 0, PAGE_NUMBER_MAX - 1, "page"),
         f.bounded("I", 1, 512, "pages")) for _ in range(f.bounded("I", 0, 256, "demands"))]},
    "INSTALLED": _void, "COMPLETE": _complete,
    "FORWARD": lambda f: {"card": f.bounded("I", 0, 255, "card"),
                          "frame": f.bytes(f.bounded("I", 14, 65600, "frame"))},
}


def parse_body(record):
    """The fields of a record as a dictionary; not for PAGES and SECTION_DATA."""
    fields = Fields(record.body)
    message = _PARSERS[record.name](fields)
    if fields.at != len(record.body):
        raise Violation("field", "bytes are left over", HEADER + fields.at)
    return message


def parse_pages(body, agreed, unpacker):
    """(batch, [(byte, encoding, first, count, hash or None, content)]) of a PAGES body.

    `agreed` has WELCOME's encodings and codecs. The content is as page_content.split() gives it, or
    None where it could not be unpacked.
    """
    region, round_, entries, codec, reserved, content_bytes, pages = struct.unpack_from(
        "<IIHBBIQ", body)
    if not 1 <= entries <= ENTRIES_MAX or reserved:
        raise Violation("page-table", "entries or reserved byte are invalid", HEADER + 8)
    if codec > page_content.ZSTD or not agreed["codecs"] >> codec & 1:
        raise Violation("page-table", "codec %d was not agreed" % codec, HEADER + 10)
    content_at = BATCH_HEADER + ENTRY * entries
    if content_at + content_bytes != len(body) or content_bytes > ENTRIES_MAX * PAGE:
        raise Violation("page-table", "counts do not make the record's length", HEADER + 12)
    table, following = [], 0
    for at in range(BATCH_HEADER, content_at, ENTRY):
        word, value = struct.unpack_from("<QQ", body, at)
        encoding, first = word >> 56, word & (1 << 56) - 1
        known = encoding in (RAW, ZEROS, DELTA, DUPLICATE)
        if not known or not agreed["encodings"] >> encoding & 1:
            raise Violation("page-table", "encoding %d was not agreed" % encoding, HEADER + at)
        count = value if encoding == ZEROS else 1
        if first < following or count == 0:
            raise Violation("page-table", "entries do not ascend", HEADER + at)
        following = first + count
        table.append((HEADER + at, encoding, first, count, value))
    if pages != sum(entry[3] for entry in table):
        raise Violation("page-table", "the table does not agree with its counts", HEADER + 16)
    contents = _contents([entry[1] for entry in table], codec, body[content_at:], unpacker,
                         HEADER + content_at)
    return ({"region": region, "round": round_, "pages": pages},
            [entry + (content,) for entry, content in zip(table, contents)])


def _contents(encodings, codec, content, unpacker, byte):
    low, high = page_content.content_bounds(encodings)
    try:
        if codec == NO_CODEC:
            if not low <= len(content) <= high:
                raise Violation("page-table", "%d bytes of content, the table allows %d to %d" %
                                (len(content), low, high), HEADER + 12)
        else:
            content = unpacker.unpack(content, (low, high))
            if content is None:
                return [None] * len(encodings)
        return page_content.split(encodings, content)
    except page_content.Broken as broken:
        raise Violation(broken.rule, broken.text, byte + broken.byte) from None
