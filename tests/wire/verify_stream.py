#!/usr/bin/env python3
"""Checks recorded migration streams against docs/wire-format.md; with Python 3.11 alone.

    verify_stream.py [--cut] FILE...

Exit code 0 when all are valid, 1 when one is not (it says which rule is broken at which byte of
which connection), 2 for wrong usage. --cut: the link was lost, so a stream may end anywhere. Batches
packed by zstd are looked into with the `zstd` command; where it is absent the result says so.
"""

import argparse
import sys

import stream_format as fmt
from page_content import Unpacker
from stream_format import TO_SOURCE, TO_TARGET, Violation
from stream_rules import CONTROL, Handover, Memory

# Which records may come on which kind of connection, by direction.
_EVERYWHERE = {"ERROR", "PING", "PONG"}
_ALLOWED = {
    ("control", TO_TARGET): _EVERYWHERE | {
        "HELLO", "RESUME_TERMS", "REGIONS", "BARRIER", "SECTION_BEGIN", "SECTION_DATA",
        "SECTION_END", "STATE_END", "OFFER", "COMMIT", "RELEASED", "ABORT", "ALIVE", "FORWARD",
        "LAZY", "VOID", "VOID_END"},
    ("control", TO_SOURCE): _EVERYWHERE | {"WELCOME", "ALIVE", "BARRIER_ACK", "READY", "STARTED",
                                           "DISCARDED", "ANSWER", "VOID", "VOID_END", "VOIDED",
                                           "LAZY_TERMS", "INSTALLED", "COMPLETE"},
    ("bulk", TO_TARGET): _EVERYWHERE | {"JOIN", "PAGES", "BARRIER", "LAZY"},
    ("bulk", TO_SOURCE): _EVERYWHERE | {"JOINED"},
    ("urgent", TO_TARGET): _EVERYWHERE | {"JOIN", "PAGES"},
    ("urgent", TO_SOURCE): _EVERYWHERE | {"JOINED", "DEMAND"},
    ("ask", TO_TARGET): _EVERYWHERE | {"ASK", "COMMIT", "RELEASED", "ABORT"},
    ("ask", TO_SOURCE): _EVERYWHERE | {"ANSWER", "STARTED", "DISCARDED"},
}
# A control lane too, after a lost link.
_ALLOWED["resume", TO_TARGET] = (_ALLOWED["control", TO_TARGET] - {"HELLO"}) | {
    "RESUME", "VOID", "VOID_END"}
_ALLOWED["resume", TO_SOURCE] = (_ALLOWED["control", TO_SOURCE] - {"WELCOME"}) | {
    "RESUMED", "VOIDED"}
_OPENERS = {"HELLO": "control", "JOIN": "bulk", "ASK": "ask", "RESUME": "resume"}
_REPLIES = {"control": {"WELCOME"}, "bulk": {"JOINED"}, "urgent": {"JOINED"},
            "ask": {"ANSWER", "STARTED", "DISCARDED"},
            "resume": {"RESUMED"}}
_ROUND_AND_STATE = {"REGIONS", "BARRIER", "SECTION_BEGIN", "SECTION_DATA", "SECTION_END",
                    "STATE_END", "OFFER"}


class Where:
    """A record's place, for messages."""

    def __init__(self, stream, offset, name):
        self.stream, self.offset, self.name = stream, offset, name

    def text(self, byte):
        return "connection %d, %s, byte %d (%s at %d)" % (
            self.stream.connection, fmt.DIRECTIONS[self.stream.direction], self.offset + byte,
            self.name, self.offset)


class Connection:
    def __init__(self):
        self.kind = None
        self.opening = None  # HELLO, JOIN, ASK or RESUME.
        self.replied = False
        self.retired = False  # A later RESUME has taken its place.
        self.pings = {TO_TARGET: set(), TO_SOURCE: set()}


class Verifier:
    """One session: told of bytes in the order in which they were recorded."""

    def __init__(self):
        self.streams = {}
        self.connections = {}
        self.hello = self.welcome = self.secret = None
        self.memory = self.handover = None
        self.lanes = set()
        self.terms = False
        self.over = None
        self.records = 0
        self.unpacker = Unpacker()

    def feed(self, connection, direction, data):
        stream = self.streams.setdefault((connection, direction),
                                         fmt.Stream(connection, direction))
        stream.buffer += data
        where = Where(stream, stream.offset, "next record")
        try:
            while (taken := stream.take_record(self.secret)) is not None:
                record, offset = taken
                where = Where(stream, offset, record.name)
                if stream.closed:
                    raise Violation("direction", "a record after ERROR")
                self._on_record(stream, record, where)
                where = Where(stream, stream.offset, "next record")
        except Violation as violation:
            if not hasattr(violation, "where"):
                violation.where = where
            raise

    def finish(self, cut):
        """After the last byte."""
        if cut:
            return
        for stream in self.streams.values():
            connection = self.connections.get(stream.connection)
            if stream.buffer and not (connection and connection.retired):
                violation = Violation("truncated", "%d bytes do not make a whole record" %
                                      len(stream.buffer), len(stream.buffer))
                violation.where = Where(stream, stream.offset, "next record")
                raise violation
        if self.over is None and (self.handover is None or self.handover.over is None):
            raise Violation("incomplete", "the session neither hands the guest over nor gives up")

    def summary(self):
        if self.memory is None:
            return "%d records, no session" % self.records
        unseen = self.unpacker.skipped
        return "%d records, %d rounds, %d pages, %d attempts, %s%s" % (
            self.records, self.memory.completed, self.memory.pages_sent,
            len(self.handover.offered | self.handover.ended),
            self.handover.over or self.over or "cut",
            "; NOT LOOKED INTO: %d packed batches, there is no zstd command" % unseen
            if unseen else "")

    def _on_record(self, stream, record, where):
        self.records += 1
        if record.type not in fmt.TYPES:
            return  # Optional type of a later version.
        connection = self.connections.setdefault(stream.connection, Connection())
        if connection.retired and stream.direction == TO_TARGET:
            raise Violation("resume", "the source goes on where it has lost the link")
        self._check_place(connection, stream, record)
        if record.name == "PAGES":
            self._pages(connection, record, where)
        elif record.name == "SECTION_DATA":
            self.handover.before_offer(record.name)
            self.handover.section_data(len(record.body))
        else:
            self._message(connection, stream, record, fmt.parse_body(record), where)

    def _check_place(self, connection, stream, record):
        """The opening record comes first, then its reply, then what the kind allows."""
        if connection.kind is None:
            if record.name == "ERROR":
                return  # Either side may give up on a connection that has not said what it is.
            if stream.direction != TO_TARGET or record.name not in _OPENERS:
                raise Violation("direction", "a connection cannot begin with this record")
            connection.kind = _OPENERS[record.name]
            return
        if record.name not in _ALLOWED[connection.kind, stream.direction]:
            raise Violation("direction", "it does not belong on this connection or direction")
        if record.name in _REPLIES[connection.kind] and not connection.replied:
            connection.replied = True
            return
        again = record.name in _OPENERS or record.name in ("WELCOME", "JOINED", "RESUMED")
        if again or not connection.replied and record.name != "ERROR":
            raise Violation("direction", "it does not come before or after the connection's reply")

    def _message(self, connection, stream, record, message, where):
        if record.name in _ROUND_AND_STATE and connection.kind in ("control", "resume"):
            self.handover.before_offer(record.name)
            self.memory.resume.account_must_be_over(record.name)
        handler = getattr(self, "_on_" + record.name.lower(), None)
        if handler is not None:
            handler(connection, stream, message)
        elif record.name == "BARRIER":
            self._barrier(connection, message)
        elif record.name == "OFFER":
            self.handover.offer(message, where)
        elif record.name == "BARRIER_ACK":
            self.memory.acknowledge(message)
        elif record.name == "REGIONS":
            self.memory.change_regions(message)
        else:
            {"SECTION_BEGIN": self.handover.section_begin, "SECTION_END": self.handover.section_end,
             "STATE_END": self.handover.state_end, "READY": self.handover.on_ready,
             "COMMIT": self.handover.commit, "STARTED": self.handover.on_started,
             "DISCARDED": self._discarded,
             "ANSWER": lambda m: self.handover.answer(m, connection.kind == "ask"),
             "RELEASED": lambda m: self.handover.released(m, connection.kind == "ask"),
             "ABORT": lambda m: self._abort(m, connection.kind == "ask"),
             }[record.name](message)

    def _on_hello(self, connection, _stream, hello):
        if self.hello is not None:
            raise Violation("session", "a second HELLO; a capture is of one session")
        if not hello["version_min"] <= 1 <= hello["version_max"]:
            raise Violation("negotiation", "version 1 is not offered", 32)
        if hello["page_size"] != fmt.PAGE:
            raise Violation("negotiation", "page size %d" % hello["page_size"], 60)
        self.hello = connection.opening = hello

    def _on_welcome(self, _connection, _stream, welcome):
        hello, limits = self.hello, welcome["limits"]
        within = (welcome["version"] == 1 and welcome["bulk_lanes"] <= hello["bulk_lanes"] and
                  all(welcome[key] & ~hello[key] == 0
                      for key in ("features", "encodings", "codecs")) and
                  all(limits[key] <= hello["limits"][key]
                      for key in ("batch_entries", "chunk_bytes")))
        if not within:
            raise Violation("negotiation", "WELCOME grants more than HELLO asked for")
        self.welcome = welcome
        self.secret = hello["random"] + welcome["random"]
        self.memory = Memory(self.secret, hello["regions"], welcome["bulk_lanes"])
        self.handover = Handover(self.memory, limits)

    def _on_resume_terms(self, _connection, _stream, _terms):
        if not self.welcome["features"] & 2 or self.terms:
            raise Violation("resume", "RESUME_TERMS twice, or without the feature")
        self.terms = True

    def _on_forward(self, _connection, _stream, _forward):
        if not self.welcome["features"] & 4:
            raise Violation("forward", "FORWARD without the feature")
        self.handover.forward()

    def _on_lazy(self, connection, _stream, lazy):
        if not self.welcome["features"] & 16:
            raise Violation("lazy", "LAZY without the feature")
        if connection.kind == "bulk":
            self.memory.lazy.on_bulk_lane(connection.opening["lane"], lazy)
        else:
            self.handover.must_not_have_begun()
            self.memory.lazy.on_control(lazy)

    def _on_lazy_terms(self, _connection, _stream, terms):
        self.memory.lazy.on_terms(terms)

    def _on_demand(self, _connection, _stream, demand):
        self.memory.lazy.demand(demand)

    def _on_installed(self, _connection, _stream, installed):
        self.memory.lazy.told_installed(installed)

    def _on_complete(self, _connection, _stream, complete):
        if not self.handover.started:
            raise Violation("lazy", "COMPLETE before STARTED")
        self.memory.lazy.told_complete(complete)

    def _on_resume(self, connection, _stream, resume):
        self._check_proof(resume, 40)
        lazy = self.memory.lazy
        if lazy.begun():
            lazy.asked(resume, self.handover.started)
        elif not self.welcome["features"] & 2:
            raise Violation("resume", "RESUME without the feature")
        else:
            self.handover.must_not_have_begun()
            self.memory.resume.asked(resume)
        for other in self.connections.values():
            other.retired = other is not connection
        self.lanes.clear()
        connection.opening = resume

    def _on_resumed(self, _connection, _stream, resumed):
        lazy = self.memory.lazy
        (lazy if lazy.begun() else self.memory.resume).answered(resumed)

    def _on_void(self, _connection, stream, void):
        resume, lazy = self.memory.resume, self.memory.lazy
        if lazy.begun() and resume.account is None:
            (lazy.missed if stream.direction == TO_SOURCE else lazy.void)(void)
        else:
            (resume.forgotten if stream.direction == TO_SOURCE else resume.void)(void)

    def _on_void_end(self, _connection, stream, end):
        resume, lazy = self.memory.resume, self.memory.lazy
        if not lazy.begun() or resume.account is not None:
            (resume.forgotten_end if stream.direction == TO_SOURCE else resume.void_end)(end)
        elif stream.direction == TO_SOURCE:
            lazy.missed_end(end)
        else:
            lazy.void_end(end, self.handover.state_ended)

    def _abort(self, abort, asked):
        self.handover.abort(abort, asked)
        if abort["scope"] == 1 and self.welcome["features"] & 8:
            self.memory.resume.aborted()

    def _discarded(self, discarded):
        self.handover.on_discarded(discarded)
        if discarded["scope"] == 1:
            self.memory.resume.dropped()

    def _on_voided(self, _connection, _stream, voided):
        lazy = self.memory.lazy
        (lazy if lazy.begun() else self.memory.resume).voided(voided)

    def _on_join(self, connection, _stream, join):
        self._check_proof(join, 43)
        self.memory.resume.must_be_over("JOIN")
        urgent = join["role"] == 2
        last = self.welcome["bulk_lanes"] + urgent
        agreed = self.welcome["features"] & 16
        if urgent and not (agreed and self.memory.lazy.may_join_urgent()):
            raise Violation("lazy", "an urgent lane, and nothing comes lazily")
        if urgent:
            connection.kind = "urgent"
            self.memory.lazy.back()
        if join["lane"] > last or join["lane"] in self.lanes:
            raise Violation("session", "lane %d is taken or was not agreed" % join["lane"], 40)
        self.lanes.add(join["lane"])
        connection.opening = join

    def _on_joined(self, connection, _stream, joined):
        if joined["lane"] != connection.opening["lane"]:
            raise Violation("session", "JOINED names another lane", 24)

    def _on_ask(self, connection, _stream, ask):
        self._check_proof(ask, 40)
        connection.opening = ask

    def _check_proof(self, message, proof_byte):
        if self.welcome is None or message["session"] != self.hello["session"]:
            raise Violation("session", "the session is not one that was agreed", 24)
        if message["proof"] != self.welcome["secret"]:
            raise Violation("session", "the proof is not WELCOME's secret", proof_byte)

    def _on_error(self, _connection, stream, _message):
        stream.closed = True
        self.over = "error"

    def _on_alive(self, _connection, _stream, _message):
        pass

    def _on_ping(self, connection, stream, ping):
        connection.pings[stream.direction].add((ping["nonce"], ping["time"]))

    def _on_pong(self, connection, stream, pong):
        if (pong["nonce"], pong["time"]) not in connection.pings[1 - stream.direction]:
            raise Violation("ping", "PONG answers no PING", 24)

    def _pages(self, connection, record, where):
        batch, table = fmt.parse_pages(record.body, self.welcome, self.unpacker)
        if len(table) > self.welcome["limits"]["batch_entries"]:
            raise Violation("page-table", "more entries than WELCOME allows", 32)
        self.memory.resume.account_must_be_over("PAGES")
        self.memory.pages(connection.opening["lane"], batch, table, where)

    def _barrier(self, connection, message):
        lane = CONTROL if connection.kind != "bulk" else connection.opening["lane"]
        if lane not in self.memory.lane_round:
            raise Violation("direction", "a barrier on the urgent lane")
        if lane == CONTROL:
            self.handover.control_barrier(message)
        self.memory.barrier(lane, message)
        self.handover.check_offer()


def verify(data, cut=False):
    """Checks a capture's bytes. Returns a summary; raises Violation."""
    verifier = Verifier()
    for connection, direction, chunk in fmt.read_capture(data):
        verifier.feed(connection, direction, chunk)
    verifier.finish(cut)
    return verifier.summary()


def main():
    parser = argparse.ArgumentParser(description="Checks recorded migration streams.")
    parser.add_argument("--cut", action="store_true", help="a stream may end anywhere")
    parser.add_argument("files", nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    code = 0
    for file in arguments.files:
        try:
            with open(file, "rb") as handle:
                print("%s: valid: %s" % (file, verify(handle.read(), arguments.cut)))
        except OSError as error:
            print("%s: %s" % (file, error.strerror))
            code = 1
        except Violation as violation:
            where = getattr(violation, "where", None)
            place = where.text(violation.byte) if where else "byte %d of the file" % violation.byte
            print("%s: INVALID [%s] %s: %s" % (file, violation.rule, place, violation.text))
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
