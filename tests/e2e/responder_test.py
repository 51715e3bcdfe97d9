"""A demo guest that answers on a network, before and after it has moved; both hosts are on one bridge."""

import ctypes
import os
import socket
import struct
import subprocess
import threading
import unittest

from harness import DONE, REFUSED, USAGE, TwoHosts, wait_for

_CLONE_NEWNET = 0x40000000
_ECHO = 7
_GUEST = {socket.AF_INET: "192.0.2.7", socket.AF_INET6: "2001:db8::7"}
_CARD = "mac=52:54:00:12:34:56,ip=192.0.2.7,ip=2001:db8::7"
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def ping(payload, patience):
    """Whether an ICMP echo request is answered, by a raw socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(patience)
        message = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xffff, 1) + payload
        total = sum(struct.unpack(f"!{len(message) // 2}H", message))
        total = (total & 0xffff) + (total >> 16)
        total = (total & 0xffff) + (total >> 16)
        message = message[:2] + struct.pack("!H", ~total & 0xffff) + message[4:]
        raw.sendto(message, (_GUEST[socket.AF_INET], 0))
        try:
            while True:
                packet = raw.recv(2000)
                if packet[20] == 0 and packet[24:] == message[4:]:
                    return True
        except TimeoutError:
            return False


def echo(family, payload, patience):
    """Whether a UDP datagram comes back."""
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.settimeout(patience)
        try:
            udp.sendto(payload, (_GUEST[family], _ECHO))
            return udp.recv(2000) == payload
        except (TimeoutError, OSError):
            return False


class Stream:
    """Numbered datagrams to the guest, one after the other, and how often each came back."""

    def __init__(self):
        self.answers = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((_GUEST[socket.AF_INET], _ECHO))
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._send, self._hear)]
        for thread in self._threads:
            thread.start()

    def _send(self):
        number = 0
        while not self._over.wait(0.002):
            number += 1
            try:
                self._socket.send(b"%d" % number)
            except OSError:
                pass  # What the network said of an earlier one.

    def _hear(self):
        self._socket.settimeout(0.1)
        while not self._over.is_set():
            try:
                number = int(self._socket.recv(100))
            except (TimeoutError, OSError):
                continue
            self.answers[number] = self.answers.get(number, 0) + 1

    def stop(self):
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()


class Responder(TwoHosts):
    def setUp(self):
        super().setUp()
        # Of this process, and so of all it starts; it goes with them.
        if _libc.unshare(_CLONE_NEWNET) != 0:
            self.skipTest(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        try:
            ip("link", "set", "lo", "up")
            ip("link", "add", "bridge", "type", "bridge")
            ip("address", "add", "192.0.2.1/24", "dev", "bridge")
            ip("-6", "address", "add", "2001:db8::1/64", "dev", "bridge", "nodad")
            ip("link", "set", "bridge", "up")
            for tap in ("tap-a", "tap-b"):
                ip("tuntap", "add", tap, "mode", "tap")
                ip("link", "set", tap, "master", "bridge")
                ip("link", "set", tap, "up")
        except (OSError, subprocess.CalledProcessError) as error:
            self.skipTest(f"no bridge with taps: {error}")

    def run_responder(self):
        return self.a.run("responder+writer:rate=20M,set=4M", "--net", "tap=tap-a," + _CARD,
                          memory="32M", vcpus=2)

    def assert_answers(self):
        wait_for(lambda: echo(socket.AF_INET, b"four", 1), "an echo over IPv4")
        wait_for(lambda: echo(socket.AF_INET6, b"six" * 400, 1), "an echo over IPv6")
        wait_for(lambda: ping(b"icmp", 1), "an answer to a ping")

    def test_AMovedResponderGoesOnAnsweringAndNobodyAnswersTwice(self):
        source = self.run_responder()
        self.assert_answers()
        before = self.a.stats()
        self.assertGreaterEqual(before["packets_answered"], 3)
        stream = Stream()
        self.addCleanup(stream.stop)
        wait_for(lambda: stream.answers, "answers at the source")
        target = self.b.recv("--once", "--net", "tap=tap-b")
        send = self.a.send(target.address, "--verify", "full")
        report = self.report(send, "done", DONE)
        self.assertEqual(report["integrity"]["full"], "equal")
        self.ended(source, DONE)
        last = max(stream.answers)
        wait_for(lambda: max(stream.answers) > last + 50, "answers at the target")
        self.assert_answers()
        stream.stop()
        twice = {number: times for number, times in stream.answers.items() if times > 1}
        self.assertEqual(twice, {}, "two guests answered")
        after = self.b.stats()
        self.assertGreater(after["packets_answered"], before["packets_answered"] + 50)
        self.assertGreater(after["uptime_ms"], before["uptime_ms"])
        self.assertEqual(after["packets"]["malformed"], 0)
        self.assert_runs(self.b)
        # The port the guest has left is dead.
        wait_for(lambda: "NO-CARRIER" in ip("link", "show", "tap-a"), "the carrier to go")
        self.stop(self.b, target)
        self.assert_nothing_left()

    def test_ATargetWithoutTheCardRefusesAndTheSourceGoesOnAnswering(self):
        source = self.run_responder()
        self.assert_answers()
        target = self.b.recv("--once")
        error = self.report(self.a.send(target.address), "refused", REFUSED)["error"]
        self.assertEqual(error["code"], "incompatible")
        self.assertIn("1 network card", error["message"])
        self.assertIn("--net", error["remedy"])
        self.assert_answers()
        self.stop(self.a, source)
        target.kill()

    def test_WordsThatMakeNoResponderAreUsageErrors(self):
        for words in (("--guest", "responder"),
                      ("--guest", "idle", "--net", "tap=tap-a,ip=192.0.2.7"),
                      ("--guest", "responder", "--net", "tap=tap-a"),
                      ("--guest", "responder", "--net", "tap=tap-a,ip=192.0.2.0/24")):
            with self.subTest(words=words):
                error = self.a.json("run", "web", *words, code=USAGE)["error"]
                self.assertEqual(error["code"], "invalid-argument")
                self.assertTrue(error["remedy"])


if __name__ == "__main__":
    unittest.main()
