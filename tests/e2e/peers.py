"""Peers that do not keep to the protocol: records made by hand, and a target that misbehaves."""

import os
import socket
import struct
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "wire"))

from proxy import HEADER  # noqa: E402
from xxh3 import DEFAULT_SECRET, xxh3_64  # noqa: E402


def record(record_type, body, sequence=0, flags=0):
    """A record as it should be, with the checksum of records that are not keyed."""
    start = struct.pack("<HHIQ", record_type, flags, len(body), sequence)
    checksum = xxh3_64(start + struct.pack("<Q", xxh3_64(body, DEFAULT_SECRET)), DEFAULT_SECRET)
    return start + struct.pack("<Q", checksum) + body


def changed(data, at, value):
    return data[:at] + value + data[at + len(value):]


def connect(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=30)


def answer_to(address, data, then_end=True):
    """What a target says to these bytes until it closes the connection."""
    with connect(address) as link:
        link.sendall(data)
        if then_end:
            link.shutdown(socket.SHUT_WR)
        return read_all(link)


def read_all(link):
    data = b""
    while True:
        try:
            more = link.recv(65536)
        except ConnectionResetError:
            return data
        if not more:
            return data
        data += more


def error_text(data):
    """The message of an ERROR record; None for anything else."""
    if len(data) < HEADER.size or HEADER.unpack_from(data)[0] != 7:
        return None
    body = data[HEADER.size:]
    length = struct.unpack_from("<I", body, 8)[0]
    return body[12:12 + length].decode()


class FakeTarget:
    """Takes one connection, reads its first record and says what it was told to say."""

    def __init__(self, answer, hang_up):
        self._answer = answer
        self._hang_up = hang_up
        self.hello = b""
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        try:
            link, _ = self._listener.accept()
        except OSError:
            return
        with link:
            head = link.recv(HEADER.size, socket.MSG_WAITALL)
            body = link.recv(HEADER.unpack(head)[2], socket.MSG_WAITALL)
            self.hello = head + body
            try:
                link.sendall(self._answer)
            except OSError:
                return
            if not self._hang_up:
                self._over.wait()

    def close(self):
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
