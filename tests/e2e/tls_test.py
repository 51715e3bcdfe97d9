"""TLS at a listener that stays: who comes with what, what each side says, and that it serves on.

The listener's messages are read from its log, which the processes of its sessions share."""

import os
import ssl
import subprocess
import unittest

import peers
from harness import DONE, FAILED, TwoHosts, wait_for

GUEST = "writer:rate=20M,set=4M"
# Of a listener that gives silent peers up while the test waits, and lets a real guest in, also on a busy machine.
HASTY = ("--hello-timeout", "4s")
_HELLO_STALLED = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


class Tls(TwoHosts):
    def setUp(self):
        super().setUp()
        self.files = self.a.scratch.path

    def file(self, name):
        return os.path.join(self.files, name)

    def keygen(self, *words):
        self.ended(self.a.start("keygen", *words), DONE)

    def certificate(self, name, ca="ca", trusted=None, names=("127.0.0.1",)):
        """Options for a host with a new certificate of the authority `ca`."""
        for authority in {ca, trusted or ca}:
            if not os.path.exists(self.file(authority + ".key")):
                self.keygen("--ca", self.file(authority))
        words = [word for each in names for word in ("--name", each)]
        self.keygen("--ca", self.file(ca), "--cert", self.file(name), *words)
        return ("--tls-cert", self.file(name + ".pem"), "--tls-key", self.file(name + ".key"),
                "--tls-ca", self.file((trusted or ca) + ".pem"))

    def expired(self, name, ca="ca"):
        """The same, but over since yesterday: openssl(1) makes what keygen does not."""
        good = self.certificate(name, ca)
        certificate, key, authority = self.file(name + ".pem"), good[3], self.file(ca)
        request, settings = self.file("request"), self.file("settings")
        with open(settings, "w", encoding="utf-8") as file:
            file.write("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        subprocess.run(["openssl", "req", "-new", "-key", key, "-subj", "/CN=" + name, "-out",
                        request], check=True, capture_output=True)
        subprocess.run(["openssl", "x509", "-req", "-in", request, "-CA", authority + ".pem",
                        "-CAkey", authority + ".key", "-set_serial", "7", "-days", "-1",
                        "-extfile", settings, "-out", certificate], check=True,
                       capture_output=True)
        return good

    def psk(self, name):
        if not os.path.exists(self.file(name)):
            self.keygen("--psk", self.file(name))
        return ("--tls-psk", self.file(name))

    def listen(self, security, *words):
        self.security = security
        self.listener = self.b.recv(*security, *words)
        return self.listener.address

    def client(self, security, session=None):
        """A context for a client with these files that is not our own."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(security[5])
        context.load_cert_chain(security[1], security[3])
        context.set_alpn_protocols(["migrate/1", "migrate/1 session=" +
                                    (session or os.urandom(16).hex())])
        return context

    def assert_serves(self, source, name="web"):
        """A guest still gets through, and then nothing is left."""
        process = self.a.run(GUEST, memory="16M", name=name)
        send = self.a.send(self.listener.address, *source, name=name)
        self.report(send, "done", DONE)
        self.ended(process, DONE)
        self.assert_runs(self.b, name)
        self.stop(self.b, name=name)
        wait_for(lambda: self.b.session_pid() is None, "the sessions' processes to end")
        self.listener.signal(15)
        self.ended(self.listener, DONE)
        self.assert_nothing_left()

    def assert_refused(self, source, says, listener_says, code="unauthorized"):
        """The guest goes on, both sides say why, and no process waits for more."""
        process = self.a.run(GUEST, memory="16M", name="kept")
        report = self.report(self.a.send(self.listener.address, *source, name="kept"), "failed",
                             FAILED)
        self.assertEqual(report["error"]["code"], code)
        self.assertIn(says, report["error"]["message"])
        wait_for(lambda: listener_says in self.listener.err, f"the listener to say {listener_says}")
        # Long before the time for a HELLO, a minute, is over.
        wait_for(lambda: self.b.session_pid() is None, "the refused session's process to end", 30)
        # What HELLO describes first makes a name of: nothing of it came so far.
        self.assertNotIn("kept", self.listener.err)
        self.assert_runs(self.a, "kept")
        self.stop(self.a, process, "kept")

    def two_at_once(self, source):
        guests = {name: self.a.run(GUEST, memory="32M", name=name) for name in ("one", "two")}
        sends = {name: self.a.send(self.listener.address, *source, "--lanes", "2", "--bandwidth",
                                   "200Mbit", name=name) for name in guests}
        sessions = {self.report(sends[name], "done", DONE)["session"] for name in guests}
        self.assertEqual(len(sessions), 2)
        for name, process in guests.items():
            self.ended(process, DONE)
            self.assert_runs(self.b, name)
            self.stop(self.b, name=name)
        self.listener.signal(15)
        self.ended(self.listener, DONE)
        self.assert_nothing_left()

    def test_TwoSessionsAtOnceByCertificates(self):
        source = self.certificate("a")
        self.listen(self.certificate("b"))
        self.two_at_once(source)

    def test_TwoSessionsAtOnceByAKey(self):
        self.listen(self.psk("key"))
        self.two_at_once(self.psk("key"))

    def test_WrongCertificatesAreRefusedAndTheListenerServesOn(self):
        source = self.certificate("a")
        self.listen(self.certificate("b"), "--hello-timeout", "60s")
        self.assert_refused(self.certificate("stranger", "other", trusted="ca"),
                            "refuses this host's certificate: it is not of an authority",
                            "is not of an authority that is trusted here")
        self.assert_refused(self.certificate("other-trust", "ca", trusted="other"),
                            "not of an authority that is trusted here",
                            "refuses this host's certificate: it is not of an authority")
        self.assert_refused(self.expired("old"), "it has expired", "has expired")
        self.assert_refused(source + ("--tls-name", "c.example"), "is not for 'c.example'",
                            "refuses this host's certificate")
        self.assert_refused(self.psk("key"), "shows a certificate instead of the pre-shared key",
                            "refuses this host's certificate")
        self.assert_refused((), "came without TLS", "came without TLS")
        self.assert_serves(source)

    def test_AnExpiredTarget(self):
        source = self.certificate("a")
        self.listen(self.expired("b"), "--hello-timeout", "60s")
        self.assert_refused(source, "has expired", "it has expired")
        self.listener.signal(15)
        self.ended(self.listener, DONE)

    def test_WrongKeysAreRefusedAndTheListenerServesOn(self):
        self.listen(self.psk("key"), "--hello-timeout", "60s")
        self.assert_refused(self.psk("other"), "does not accept this host's pre-shared key",
                            "does not offer this host's pre-shared key")
        self.assert_refused(self.certificate("a"), "no way to authenticate in common",
                            "pre-shared key")
        self.assert_serves(self.psk("key"))

    def test_AClientWithoutACertificateIsRefusedAtOnce(self):
        source = self.certificate("a")
        address = self.listen(self.certificate("b"), "--hello-timeout", "60s")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(source[5])
        context.set_alpn_protocols(["migrate/1", "migrate/1 session=" + "ab" * 16])
        with peers.connect(address) as link, self.assertRaises(ssl.SSLError) as raised:
            with context.wrap_socket(link) as secured:
                secured.recv(1)
        self.assertIn("CERTIFICATE_REQUIRED", str(raised.exception).upper())
        wait_for(lambda: "shows no certificate" in self.listener.err, "the reason")
        self.assert_serves(source)

    def test_GarbageAndStallsHoldNobodyUp(self):
        source = self.certificate("a")
        address = self.listen(self.certificate("b"), *HASTY)
        said = peers.answer_to(address, b"GET / HTTP/1.1\r\n\r\n")
        self.assertIn("came without TLS", peers.error_text(said))
        for garbage in (b"\x16" + os.urandom(400), b"\x16\x03\x01\xff\xff" + os.urandom(400),
                        b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc" + bytes(252)):
            # OpenSSL's alert, or nothing; and then the end.
            self.assertIn(peers.answer_to(address, garbage)[:1], (b"\x15", b""))
        peers.answer_to(address, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01x")
        # In the ClientHello: the listener itself gives it up, and no process was begun for it.
        with peers.connect(address) as link:
            link.sendall(_HELLO_STALLED)
            self.assertEqual(peers.read_all(link), b"")
        wait_for(lambda: "did not begin in time" in self.listener.err, "the reason")
        self.assertIsNone(self.b.session_pid())
        self.assert_serves(source)

    def test_AHandshakeThatStallsEndsItsProcessInTime(self):
        source = self.certificate("a")
        address = self.listen(self.certificate("b"), *HASTY)
        out = ssl.MemoryBIO()
        half = self.client(source).wrap_bio(ssl.MemoryBIO(), out)
        with self.assertRaises(ssl.SSLWantReadError):
            half.do_handshake()
        with peers.connect(address) as link:
            link.sendall(out.read())
            self.assertTrue(peers.read_all(link), "the target's side of the handshake")
        wait_for(lambda: "handshake" in self.listener.err and "took too long" in self.listener.err,
                 "the reason")
        self.assert_serves(source)

    def test_SilenceAfterTheHandshakeEndsItsProcessInTime(self):
        source = self.certificate("a")
        address = self.listen(self.certificate("b"), *HASTY)
        with peers.connect(address) as link:
            with self.client(source).wrap_socket(link) as secured:
                said = peers.read_all(secured)
        self.assertIn("did not introduce itself", peers.error_text(said))
        self.assert_serves(source)

    def test_TheTargetIsTls13WithoutTickets(self):
        source = self.certificate("a")
        address = self.listen(self.certificate("b"), *HASTY)
        with peers.connect(address) as link:
            with self.client(source).wrap_socket(link) as secured:
                peers.read_all(secured)
                self.assertEqual(secured.version(), "TLSv1.3")
                self.assertEqual(secured.selected_alpn_protocol(), "migrate/1", "the hint is none")
                self.assertEqual(secured.cipher()[0], "TLS_AES_128_GCM_SHA256")
                self.assertFalse(secured.session.has_ticket)
        old = self.client(source)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        with peers.connect(address) as link, self.assertRaises((ssl.SSLError, OSError)):
            old.wrap_socket(link)
        self.assert_serves(source)

    def test_AQuestionWhoseProcessIsGoneIsAnsweredAndNoOther(self):
        source = self.certificate("a")
        address = self.listen(self.certificate("b"), *HASTY)
        session = os.urandom(16)
        for asked, answer in ((session, None), (os.urandom(16), "announced another session")):
            with peers.connect(address) as link:
                with self.client(source, session.hex()).wrap_socket(link) as secured:
                    secured.sendall(peers.record(5, asked + os.urandom(32)))
                    said = peers.read_all(secured)
            if answer is None:
                self.assertEqual(int.from_bytes(said[:2], "little"), 6, "ANSWER: unknown")
                self.assertEqual(said[24], 0)
            else:
                self.assertIn(answer, peers.error_text(said))
            wait_for(lambda: self.b.session_pid() is None, "the session's process to end")
        self.assert_serves(source)


if __name__ == "__main__":
    unittest.main()
