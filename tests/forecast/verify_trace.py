#!/usr/bin/env python3
"""Checks dirty traces against docs/trace-format.md; with Python 3.9 alone.

    verify_trace.py FILE...

Exit code 0 when all are valid, 1 when one is not (it says what is wrong at which byte), 2 for wrong usage.
"""

import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "wire"))
from xxh3 import xxh3_64  # noqa: E402

GUEST, EMPTY, SAMPLE, END = 1, 2, 3, 4
_PROLOGUE, _HEADER = 16, 24
_NAMES = {GUEST: "GUEST", EMPTY: "EMPTY", SAMPLE: "SAMPLE", END: "END"}


class Violation(Exception):
    pass


def _require(condition, at, what):
    if not condition:
        raise Violation(f"byte {at}: {what}")


class Fields:
    """A record's body, field by field."""

    def __init__(self, data, offset):
        self._data, self._offset, self._at = data, offset, 0

    def take(self, count, what):
        _require(len(self._data) - self._at >= count, self.here(), f"{what} is cut")
        piece = self._data[self._at:self._at + count]
        self._at += count
        return piece

    def here(self):
        return self._offset + self._at

    def number(self, form, what):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form), what))[0]

    def choice(self, first, last, what):
        at, value = self.here(), self.number("B", what)
        _require(first <= value <= last, at, f"{what} is {value}")
        return value

    def count(self, most, what):
        at, value = self.here(), self.number("I", what)
        _require(value <= most, at, f"{what} has {value}")
        return value

    def text(self, what):
        at = self.here()
        try:
            text = self.take(self.count(255, what), what).decode("utf-8")
        except UnicodeDecodeError:
            raise Violation(f"byte {at}: {what} is not UTF-8") from None
        _require(not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text), at, f"{what} has control characters")
        return text

    def finish(self):
        _require(self._at == len(self._data), self.here(), "bytes are left over")


def read_runs(data, total, offset):
    """Form 0, as a list of (first, count)."""
    numbers, value, shift, begin = [], 0, 0, 0
    for at, byte in enumerate(data):
        value |= (byte & 127) << shift
        shift += 7
        _require(shift <= 35 and value < 1 << 32, offset + begin, "a number has more than 32 bits")
        if byte & 128:
            continue
        _require(byte or shift == 7, offset + begin, "a number is longer than it has to be")
        numbers.append(value)
        value, shift, begin = 0, 0, at + 1
    _require(shift == 0 and len(numbers) % 2 == 0, offset + len(data), "a run is cut")
    runs, end = [], 0
    for gap, count in zip(numbers[::2], numbers[1::2]):
        _require(count and (gap or not runs), offset, "a run is not maximal")
        runs.append((end + gap, count))
        end += gap + count
    _require(end <= total, offset, "a run ends beyond the last page")
    return runs


def read_words(data, total, offset):
    """Form 1, likewise."""
    _require(len(data) == (total + 63) // 64 * 8, offset, "not one bit for each page")
    bits = int.from_bytes(data, "little")
    _require(bits >> total == 0, offset, "bits beyond the last page")
    runs, at = [], 0
    while bits:
        skip = (bits & -bits).bit_length() - 1
        bits >>= skip
        count = (~bits & (bits + 1)).bit_length() - 1
        bits >>= count
        runs.append((at + skip, count))
        at += skip + count
    return runs


def read_set(fields, total):
    form = fields.choice(0, 1, "the set's form")
    length = fields.count(1 << 27, "the set")
    offset = fields.here()
    data = fields.take(length, "the set")
    fields.finish()
    return (read_words if form else read_runs)(data, total, offset)


def read_guest(fields):
    guest = {"name": fields.text("the name"), "kind": fields.choice(1, 2, "the kind"),
             "vcpus": fields.number("I", "vcpus"), "paused": bool(fields.choice(0, 1, "paused")),
             "recorded_at": fields.number("Q", "recorded_at"), "tracker": fields.text("the tracker"),
             "rearms_in_collect": bool(fields.choice(0, 1, "rearms_in_collect"))}
    for name in ("interval", "pause", "collect", "state_save"):
        guest[name] = fields.number("I", name)
    guest["state_bytes"] = fields.number("Q", "state_bytes")
    at = fields.here()
    guest["page_wire_bytes"] = fields.number("I", "page_wire_bytes")
    _require(4096 <= guest["page_wire_bytes"] <= 8192, at, "page_wire_bytes is out of range")
    ids, guest["pages"] = set(), 0
    for _ in range(fields.count(16384, "regions")):
        at = fields.here()
        identity = tuple(fields.number("I", "a region") for _ in range(3))
        _require(identity not in ids, at, "a region is there twice")
        ids.add(identity)
        fields.choice(0, 4, "the backing")
        first, pages = fields.number("Q", "a region"), fields.number("Q", "a region")
        _require(0 < pages <= 1 << 30 and first + pages <= 1 << 52, at, "a region's pages")
        guest["pages"] += pages
    _require(guest["pages"] <= 1 << 30, at, "more than 2^30 pages")
    fields.finish()
    return guest


def read_records(data):
    """(type, offset of the body, body) of each, its header checked."""
    at, sequence = _PROLOGUE, 0
    while at < len(data):
        _require(len(data) - at >= _HEADER, at, "a record's header is cut")
        kind, flags, length, number, checksum = struct.unpack_from("<HHIQQ", data, at)
        body = data[at + _HEADER:at + _HEADER + length]
        _require(len(body) == length, at, "a record is cut")
        wanted = xxh3_64(data[at:at + 16] + struct.pack("<Q", xxh3_64(body)))
        _require(checksum == wanted, at, "the checksum does not match")
        _require(kind in _NAMES and flags == 0, at, "the type is not known")
        _require(number == sequence, at, "a record is missing or twice")
        yield kind, at + _HEADER, body
        at, sequence = at + _HEADER + length, sequence + 1


def verify(data):
    """The trace: what GUEST says, `empty` and `samples`, a list of (took, by_vcpu, runs)."""
    _require(data[:8] == b"MIGTRACE", 0, "not a trace")
    _require(len(data) >= _PROLOGUE, len(data), "the file is cut")
    _require(struct.unpack_from("<II", data, 8) == (1, 4096), 8, "another version or page size")
    trace, samples, due, last = {}, [], GUEST, None
    for kind, offset, body in read_records(data):
        _require(last is None, offset, "a record follows END")
        _require(kind == due or (due == SAMPLE and kind == END), offset, f"{_NAMES[kind]} is out of order")
        fields = Fields(body, offset)
        if kind == GUEST:
            trace, due = read_guest(fields), EMPTY
        elif kind == EMPTY:
            trace["empty"], due = read_set(fields, trace["pages"]), SAMPLE
        elif kind == SAMPLE:
            took = fields.number("I", "took")
            _require(took > 0, offset, "a sample took no time")
            by_vcpu = [fields.number("Q", "by_vcpu") for _ in range(fields.count(65536, "by_vcpu"))]
            samples.append((took, by_vcpu, read_set(fields, trace["pages"])))
        else:
            last = fields.number("I", "samples"), fields.number("Q", "dirtied")
            fields.finish()
            dirtied = sum(count for _, _, runs in samples for _, count in runs)
            _require(last == (len(samples), dirtied), offset, "END counts otherwise")
    _require(last is not None, len(data), "there is no END")
    runs = len(trace["empty"]) + sum(len(runs) for _, _, runs in samples)
    _require(runs <= 1 << 24, len(data), "more runs than a trace may have")
    trace["samples"] = samples
    return trace


def main(paths):
    if not paths:
        print(__doc__, file=sys.stderr)
        return 2
    for path in paths:
        try:
            trace = verify(pathlib.Path(path).read_bytes())
        except Violation as violation:
            print(f"{path}: {violation}")
            return 1
        took = sum(took for took, _, _ in trace["samples"])
        print(f"{path}: {trace['name']}, {trace['pages']} pages, {len(trace['samples'])} samples, {took / 1e6:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
