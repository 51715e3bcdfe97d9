"""Peers that send nonsense, lie, or say nothing: a clear error, and whoever met them goes on."""

import os
import signal
import struct
import unittest

import peers
import proxy
from harness import DONE, FAILED, REFUSED, TwoHosts, wait_for
from proxy import SOURCE

# HELLO's fields, docs/wire-format.md: where they are in the record.
_VERSION_AT = proxy.HEADER.size + 8
_PAGE_SIZE_AT = proxy.HEADER.size + 36
_JOIN_BODY = struct.Struct("<16sHB32s")


class BadSource(TwoHosts):
    """A listener and what it is sent. Whatever that is, a real guest arrives afterwards."""

    # For tests that wait until it gives a silent peer up. Real guests arrive at such a listener, too, also on a busy
    # machine.
    HASTY = ("--hello-timeout", "4s", "--peer-timeout", "10s")

    def listen(self, *words):
        self.listener = self.b.recv(*words)

    def assert_usable(self):
        source = self.a.run(memory="16M")
        self.report(self.a.send(self.listener.address, "--verify", "full"), "done", DONE)
        self.ended(source, DONE)
        self.assert_runs(self.b)
        self.stop(self.b)
        self.listener.signal(signal.SIGTERM)
        self.ended(self.listener, DONE)
        self.assert_nothing_left()

    def good_hello(self):
        """The HELLO of a real source, which then gives up."""
        source = self.a.run(memory="16M")
        target = peers.FakeTarget(b"", hang_up=True)
        self.addCleanup(target.close)
        self.report(self.a.send(target.address), "failed", FAILED)
        self.stop(self.a, source)
        return target.hello

    def assert_refused(self, data, *words):
        said = peers.error_text(peers.answer_to(self.listener.address, data))
        self.assertTrue(said, "an ERROR record")
        for word in words:
            self.assertIn(word, said)

    def test_Garbage(self):
        self.listen()
        self.assert_refused(os.urandom(4096))
        self.assert_refused(b"GET / HTTP/1.1\r\nHost: target\r\n\r\n")
        self.assert_usable()

    def test_AConnectionThatEndsAtOnceOrWithinAHeader(self):
        self.listen()
        hello = self.good_hello()
        for size in (0, 1, proxy.HEADER.size - 1):
            peers.answer_to(self.listener.address, hello[:size])
        self.assert_usable()

    def test_AConnectionThatSaysNothingIsGivenUp(self):
        self.listen(*self.HASTY)
        said = peers.answer_to(self.listener.address, b"", then_end=False)
        self.assertIn("did not introduce itself", peers.error_text(said))
        self.assert_usable()

    def test_ManySilentConnectionsKeepNobodyOut(self):
        self.listen("--hello-timeout", "30s")
        links = [peers.connect(self.listener.address) for _ in range(40)]
        self.assert_usable()
        for link in links:
            link.close()

    def test_WrongMagicOrVersion(self):
        self.listen()
        body = self.good_hello()[proxy.HEADER.size:]
        self.assert_refused(peers.record(proxy.HELLO, peers.changed(body, 0, b"MIGRATE0")))
        versions = struct.pack("<HH", 7, 9)
        self.assert_refused(peers.record(proxy.HELLO, peers.changed(body, 8, versions)), "version")
        self.assert_usable()

    def test_AWrongPageSize(self):
        self.listen()
        body = self.good_hello()[proxy.HEADER.size:]
        page = struct.pack("<I", 65536)
        self.assert_refused(peers.record(proxy.HELLO, peers.changed(body, 36, page)), "page")
        self.assert_usable()

    def test_OversizedAndUnknownRecords(self):
        self.listen()
        for header in (proxy.HEADER.pack(proxy.HELLO, 0, 1 << 31, 0, 0),
                       proxy.HEADER.pack(proxy.JOIN, 0, 52, 0, 0),
                       proxy.HEADER.pack(0x0777, 0, 16, 0, 0),
                       proxy.HEADER.pack(proxy.HELLO, 0x8000, 300, 0, 0),
                       proxy.HEADER.pack(proxy.HELLO, 0, 300, 5, 0),
                       peers.record(proxy.COMMIT, struct.pack("<I", 1))):
            with self.subTest(header=header[:8]):
                self.assert_refused(header)
        self.assert_usable()

    def test_AHelloCutShortOrChangedAnywhere(self):
        self.listen()
        hello = self.good_hello()
        for at in (3, 9, 17, _VERSION_AT + 1, _PAGE_SIZE_AT, len(hello) // 2, len(hello) - 1):
            with self.subTest(flipped=at):
                flipped = peers.changed(hello, at, bytes([hello[at] ^ 4]))
                self.assertIsNotNone(peers.error_text(
                    peers.answer_to(self.listener.address, flipped)))
        for size in (proxy.HEADER.size, 100, len(hello) - 1):
            with self.subTest(size=size):
                peers.answer_to(self.listener.address, hello[:size])
        wait_for(lambda: self.b.session_pid() is None, "the sessions to end")
        self.assert_usable()

    def test_AHelloThatIsFollowedBySilence(self):
        """The listener goes on at once; the name is free again when the lanes' time is over."""
        self.listen(*self.HASTY)
        hello = self.good_hello()
        link = peers.connect(self.listener.address)
        link.sendall(hello)
        welcome = link.recv(proxy.HEADER.size, 0)
        self.assertEqual(proxy.HEADER.unpack(welcome)[0], proxy.WELCOME)
        said = peers.read_all(link)
        self.assertIn(b"lanes joined", said)
        link.close()
        wait_for(lambda: self.b.session_pid() is None, "the session to end")
        self.assert_usable()

    def test_AHalfOfAHelloIsFollowedBySilence(self):
        self.listen(*self.HASTY)
        said = peers.answer_to(self.listener.address, self.good_hello()[:-1], then_end=False)
        self.assertTrue(peers.error_text(said))
        wait_for(lambda: self.b.session_pid() is None, "the session to end")
        self.assert_usable()

    def test_LanesOfUnknownSessions(self):
        self.listen()
        join = _JOIN_BODY.pack(os.urandom(16), 1, 1, os.urandom(32))
        self.assert_refused(peers.record(proxy.JOIN, join), "session")
        said = peers.answer_to(self.listener.address,
                               peers.record(proxy.ASK, os.urandom(48)))
        self.assertEqual(proxy.HEADER.unpack_from(said)[0], proxy.ANSWER)
        self.assertEqual(said[proxy.HEADER.size], 0, "unknown")
        self.assert_usable()

    def test_ALaneOrAQuestionWithTheWrongProofDisturbsNothing(self):
        self.listen("--hello-timeout", "20s")
        link = proxy.Proxy(self.listener.address)
        self.addCleanup(link.close)
        source = self.a.run(memory="16M")
        gate = link.gate(SOURCE, proxy.JOIN)
        send = self.a.send(link.address)
        gate.wait()
        session = []
        seen = link.gate(SOURCE, proxy.JOIN)

        def keep(record):
            session.append(record[proxy.HEADER.size:proxy.HEADER.size + 16])
            return record
        gate.change(keep)
        seen.wait()
        wait_for(lambda: session, "the session's name")
        forged = _JOIN_BODY.pack(session[0], 1, 1, os.urandom(32))
        self.assert_refused(peers.record(proxy.JOIN, forged), "prove")
        self.assert_refused(peers.record(proxy.ASK, session[0] + os.urandom(32)), "prove")
        seen.let_pass()
        self.report(send, "done", DONE)
        self.ended(source, DONE)
        self.assert_runs(self.b)
        self.stop(self.b)

    def test_StrangersDoNotUseUpTheOneSession(self):
        target = self.b.recv("--once")
        peers.answer_to(target.address, os.urandom(512))
        peers.answer_to(target.address, peers.record(proxy.ASK, os.urandom(48)))
        self.a.run(memory="16M")
        self.report(self.a.send(target.address), "done", DONE)
        self.stop(self.b, target)
        self.assert_nothing_left()


class BadTarget(TwoHosts):
    """What the source makes of it; its guest never notices."""

    def send_to(self, answer, hang_up=True, outcome="failed", code=FAILED):
        source = self.a.run(memory="16M")
        target = peers.FakeTarget(answer, hang_up)
        self.addCleanup(target.close)
        # Only who stays silent is given up: what others say must be heard, however late.
        brief = () if hang_up else ("--hello-timeout", "500ms", "--peer-timeout", "1s")
        send = self.a.send(target.address, *brief)
        report = self.report(send, outcome, code)
        self.assert_runs(self.a)
        self.stop(self.a, source)
        self.assert_nothing_left(self.a)
        return report["error"]

    def test_ATargetThatHangsUp(self):
        self.assertEqual(self.send_to(b"")["code"], "link-lost")

    def test_ATargetThatSaysNothing(self):
        error = self.send_to(b"", hang_up=False)
        self.assertEqual(error["code"], "timeout")
        self.assertIn("hello-timeout", error["remedy"])

    def test_AnotherKindOfServer(self):
        self.assertEqual(self.send_to(b"HTTP/1.1 400 Bad Request\r\n\r\n")["code"], "protocol")

    def test_AWelcomeOfAnotherVersion(self):
        self.assertIn(self.send_to(peers.record(proxy.WELCOME, b"\x09" + bytes(195)))["code"],
                      ("version-mismatch", "protocol"))

    def test_AWelcomeCutShort(self):
        whole = peers.record(proxy.WELCOME, bytes(196))
        self.assertEqual(self.send_to(whole[:100])["code"], "link-lost")
        self.assertEqual(self.send_to(whole[:100], hang_up=False)["code"], "timeout")

    def test_AWelcomeDamagedOnTheWay(self):
        damaged = proxy.flip(-1)(peers.record(proxy.WELCOME, bytes(196)))
        self.assertEqual(self.send_to(damaged)["code"], "integrity")

    def test_AnErrorInPlaceOfAWelcome(self):
        message, remedy = b"no\x1b[2Jroom", b"go elsewhere"
        body = struct.pack("<HBBiI", 11, 2, 2, 0, len(message)) + message + struct.pack(
            "<I", len(remedy)) + remedy
        error = self.send_to(peers.record(proxy.ERROR, body), outcome="refused", code=REFUSED)
        self.assertEqual(error["code"], "no-memory")
        self.assertEqual(error["message"], "no?[2Jroom", "fit for a terminal")
        self.assertEqual(error["remedy"], "go elsewhere")
        self.assertEqual(error["side"], "target")


if __name__ == "__main__":
    unittest.main()
