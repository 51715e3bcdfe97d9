"""What is refused before the guest is touched, and what the command line refuses."""

import resource
import signal
import socket
import unittest

from harness import CANCELLED, DONE, FAILED, REFUSED, USAGE, TwoHosts, wait_for

MIB = 1 << 20


class Preflight(TwoHosts):
    def refused(self, code, target):
        send = self.a.send(target)
        report = self.report(send, "refused", REFUSED)
        self.assertEqual(report["error"]["code"], code)
        self.assertEqual(report["error"]["phase"], "preflight")
        self.assertEqual(report["error"]["side"], "target")
        self.assertEqual(report["bytes"]["wire"], 0)
        self.assert_runs(self.a)

    def test_ATargetWithoutRoomForTheGuestRefuses(self):
        source = self.a.run(memory="64M")
        # Guest memory is a file to the kernel.
        target = self.b.recv("--once", "--json",
                             limits=[(resource.RLIMIT_FSIZE, 32 * MIB)])
        self.refused("no-memory", target.address)
        self.ended(target, FAILED)
        self.assertEqual(target.json()["outcome"], "refused")
        self.stop(self.a, source)
        self.assert_nothing_left()

    def test_ATakenNameRefusesAndTheListenerStays(self):
        source = self.a.run()
        other = self.b.run("idle", memory="16M")
        listener = self.b.recv()
        self.refused("name-taken", listener.address)
        self.assertEqual(self.b.guest()["memory_bytes"], 16 * MIB)
        self.stop(self.b, other)
        self.report(self.a.send(listener.address), "done", DONE)
        self.ended(source, DONE)
        self.assert_runs(self.b)
        self.stop(self.b)
        listener.signal(signal.SIGTERM)
        self.ended(listener, DONE)
        self.assert_nothing_left()

    def test_AGuestMayArriveUnderAnotherName(self):
        self.a.run()
        target = self.b.recv("--once", "--name", "moved")
        self.report(self.a.send(target.address), "done", DONE)
        self.assert_runs(self.b, "moved")
        self.stop(self.b, target, "moved")
        self.assert_nothing_left()

    def test_NobodyListensThere(self):
        source = self.a.run()
        # A port that nobody else gets meanwhile.
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            report = self.report(self.a.send("127.0.0.1:%d" % taken.getsockname()[1]), "failed", FAILED)
        self.assertEqual(report["error"]["code"], "connect-failed")
        self.assert_runs(self.a)
        self.stop(self.a, source)

    def test_APortInUseIsSaid(self):
        listener = self.b.recv()
        for once in ((), ("--once",)):
            with self.subTest(once=once):
                second = self.a.json("recv", "--listen", listener.address, *once, code=FAILED)
                self.assertEqual(second["error"]["code"], "address-in-use")
                self.assertTrue(second["error"]["remedy"])
        self.assertTrue(listener.running())

    def test_AGuestsNameIsUniqueOnItsHost(self):
        source = self.a.run(memory="16M")
        error = self.a.json("run", "web", "--memory", "16M", code=FAILED)["error"]
        self.assertEqual(error["code"], "name-taken")
        self.assertTrue(error["remedy"])
        self.assert_runs(self.a)
        self.stop(self.a, source)
        self.assert_nothing_left(self.a)

    def test_AGuestThatIsNotThereIsSaid(self):
        for words in (("status", "web"), ("stats", "web"), ("cancel", "web"), ("stop", "web"),
                      ("send", "vm:web", "127.0.0.1:9")):
            with self.subTest(words=words):
                error = self.a.json(*words, code=FAILED)["error"]
                self.assertEqual(error["code"], "not-found")
                self.assertTrue(error["remedy"])

    def test_WrongWordsAreUsageErrors(self):
        for words in (("run",), ("run", "we/b"), ("run", "web", "--memory", "12X"),
                      ("run", "web", "--vcpus", "0"), ("run", "web", "--guest", "dancer"),
                      ("send", "web", "127.0.0.1:9"), ("send", "vm:web", "nowhere"),
                      ("send", "vm:web", "127.0.0.1:9", "--strategy", "magic"),
                      ("send", "vm:web", "127.0.0.1:9", "--max-downtime", "soon"),
                      ("send", "vm:web", "8.8.8.8:9"), ("recv",),
                      ("recv", "--listen", "0.0.0.0:0"), ("recv", "--listen", "127.0.0.1:x"),
                      ("recv", "--listen", "127.0.0.1:0", "--lease", "0s"),
                      ("resolve", "web"), ("resolve", "web", "--resume", "--release"),
                      ("dance",), ()):
            with self.subTest(words=words):
                error = self.a.json(*words, code=USAGE)["error"]
                self.assertEqual(error["code"], "invalid-argument")
                self.assertTrue(error["message"])
                self.assertTrue(error["remedy"])

    def test_AMigrationAtATime(self):
        source = self.a.run("writer:rate=20M,set=8M,fill=random", memory="32M")
        target = self.b.recv("--once")
        # Half a minute: longer than all the commands here take.
        first = self.a.send(target.address, "--bandwidth", "8Mbit")
        wait_for(lambda: self.a.state() == "migrating", "the migration")
        second = self.report(self.a.send(target.address), "failed", FAILED)
        self.assertEqual(second["error"]["code"], "busy")
        for verb in ("pause", "resume"):
            error = self.a.json(verb, "web", code=FAILED)["error"]
            self.assertEqual(error["code"], "busy")
        self.assertEqual(self.a.json("cancel", "web")["outcome"], "cancelled")
        self.report(first, "cancelled", CANCELLED)
        # Cancelling what has ended is no success, and does no harm.
        error = self.a.json("cancel", "web", code=FAILED)["error"]
        self.assertEqual(error["code"], "not-found")
        self.assert_runs(self.a)
        self.ended(target, FAILED)
        self.stop(self.a, source)
        self.assert_nothing_left()

    def test_ADeadGuestLeavesNothingInTheWay(self):
        source = self.a.run(memory="16M")
        source.kill()
        self.assertEqual(self.a.json("ps")["guests"], [])
        again = self.a.run(memory="16M")
        self.assert_runs(self.a)
        self.stop(self.a, again)
        self.assert_nothing_left(self.a)


if __name__ == "__main__":
    unittest.main()
