"""A TCP proxy on loopback that understands records, and so can act at a chosen one.

A gate holds the first record it matches, on its way, until the test has done its deed (killed a
process, cut the link) and lets it pass or drops it. docs/wire-format.md has the records.
"""

import socket
import struct
import threading

from harness import PATIENCE_S

SOURCE, TARGET = "source", "target"

HEADER = struct.Struct("<HHIQQ")
(HELLO, WELCOME, JOIN, JOINED, ASK, ANSWER, ERROR, PING, PONG, RESUME, RESUMED) = range(1, 12)
(REGIONS, PAGES, BARRIER, BARRIER_ACK) = range(0x10, 0x14)
(SECTION_BEGIN, SECTION_DATA, SECTION_END, STATE_END) = range(0x20, 0x24)
(OFFER, READY, COMMIT, STARTED, RELEASED, ABORT, DISCARDED) = range(0x30, 0x37)
(LAZY, LAZY_TERMS, DEMAND, INSTALLED, COMPLETE) = range(0x40, 0x45)


class Gate:
    """Holds the nth record of a type that `sender` sends."""

    def __init__(self, sender, record_type, nth=1):
        self.sender = sender
        self.type = record_type
        self._left = nth
        self._lock = threading.Lock()
        self._reached = threading.Event()
        self._decided = threading.Event()
        self._verdict = None

    def matches(self, sender, record_type):
        if sender != self.sender or record_type != self.type:
            return False
        with self._lock:
            self._left -= 1
            return self._left == 0

    def hold(self):
        """In the proxy: gives the function that makes of the record's bytes what is sent on."""
        self._reached.set()
        self._decided.wait(PATIENCE_S * 2)
        return self._verdict

    def wait(self):
        if not self._reached.wait(PATIENCE_S):
            raise AssertionError(f"record {self.type:#x} of the {self.sender} never came")
        return self

    def let_pass(self):
        self.change(lambda record: record)

    def drop(self):
        self.change(lambda record: b"")

    def change(self, verdict):
        self._verdict = verdict
        self._decided.set()


class _Link:
    """One connection through the proxy."""

    def __init__(self, near, far):
        self.sockets = (near, far)

    def cut(self):
        for end in self.sockets:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Proxy:
    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._links = []
        self._gates = []
        self._refusing = False
        self._flowing = threading.Event()
        self._flowing.set()
        self._threads = []
        self._start(self._accept)

    # What tests do.

    def gate(self, sender, record_type, nth=1):
        gate = Gate(sender, record_type, nth)
        self._gates.append(gate)
        return gate

    def cut(self, refuse=False):
        """Ends all connections; with `refuse`, new ones find nobody."""
        with self._lock:
            self._refusing = refuse
            links, self._links = self._links, []
        for link in links:
            link.cut()

    def heal(self):
        with self._lock:
            self._refusing = False

    def stall(self):
        """Nothing comes through any more, and nobody is told."""
        self._flowing.clear()

    def flow(self):
        self._flowing.set()

    def close(self):
        # Woken first: a thread in accept() would keep a closed socket listening.
        self._listener.shutdown(socket.SHUT_RDWR)
        for gate in self._gates:
            gate.drop()
        self._flowing.set()
        self.cut(refuse=True)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        self._listener.close()

    # The proxy.

    def _start(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._connect(near)

    def _connect(self, near):
        with self._lock:
            refusing = self._refusing
        try:
            if refusing:
                raise OSError
            far = socket.create_connection(self._target)
        except OSError:
            near.close()
            return
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(near, far)
        with self._lock:
            self._links.append(link)
        self._start(self._pump, link, SOURCE, near, far)
        self._start(self._pump, link, TARGET, far, near)

    def _pump(self, link, sender, into, out):
        try:
            while True:
                record = self._read_record(into)
                if not record:
                    break
                record = self._pass_gates(sender, record)
                self._flowing.wait()
                out.sendall(record)
        except OSError:
            link.cut()
            return
        try:
            out.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _read_record(self, into):
        head = _read(into, HEADER.size)
        if len(head) < HEADER.size:
            return head
        length = HEADER.unpack(head)[2]
        return head + _read(into, length)

    def _pass_gates(self, sender, record):
        if len(record) < HEADER.size:
            return record
        record_type = HEADER.unpack_from(record)[0]
        for gate in self._gates:
            if gate.matches(sender, record_type):
                verdict = gate.hold()
                return verdict(record) if verdict else b""
        return record


def _read(into, size):
    data = bytearray(size)
    view = memoryview(data)
    got = 0
    while got < size:
        count = into.recv_into(view[got:])
        if count == 0:
            return bytes(data[:got])
        got += count
    return bytes(data)


def flip(bit_at):
    """A verdict that inverts one bit of the record's byte `bit_at`; negative ones count from its end."""
    def verdict(record):
        changed = bytearray(record)
        changed[bit_at] ^= 1
        return bytes(changed)
    return verdict

