"""Established connections go on: each byte arrives, no connection is reset, and no wait is long."""

import ctypes
import os
import re
import subprocess
import sys
import threading
import unittest

# It says where the others are. pylint: disable=wrong-import-order
from migrations import FAILED, PATIENT, Migrations, wait_for
import proxy
import servers
from broken_link_test import BEFORE_COMMIT
from hosts import CRIU, LINK, PORT, criu_version, program, testbed

# Of sockets of the internet on Linux 6.16 and later.
_CRIU_WITH_TCP = (4, 2)
# On a busy machine; a connection that was lost, or waits for a retransmission that was lost twice, takes longer.
_STALL_AT_MOST_US = 30e6
_CLONE_NEWNET = 0x40000000
_WRITER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "redis_writer.py")


class Network(Migrations):
    network = True

    def setUp(self):
        super().setUp()
        kernel = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
        if criu_version() < _CRIU_WITH_TCP and kernel >= (6, 16):
            self.skipTest(f"{CRIU} cannot dump sockets of this kernel")

    def move_with_link(self, guest, *words, receiving=(), **options):
        return self.move(guest, self.b, "--container-link", LINK, *words,
                         receiving=("--container-link", LINK, "--container-network",
                                    self.bed.guest_network(self.b), *receiving), **options)

    def test_AnEchoGoesOnOnItsConnection(self):
        guest = self.guest("--serve", PORT, netns=self.bed.guest_network(self.a))
        client = self.client("ping", testbed.GUEST_IP, PORT)
        since = guest.loops()
        wait_for(lambda: guest.loops() > since + 200, "some time at the source")
        self.move_with_link(guest)
        since = guest.loops()
        wait_for(lambda: guest.loops() > since + 500, "some time at the target")
        self.assert_memory_right(guest)
        seen = client.end()
        self.assertEqual((seen["errors"], seen["fault"]), (0, ""))
        self.assertGreater(seen["messages"], 100)
        self.assertLess(seen["longest_stall_us"], _STALL_AT_MOST_US)

    def proxy(self, address):
        """One that listens on host a's loopback: its threads are in that network namespace."""
        made = []

        def make():
            fd = os.open("/run/netns/" + self.bed.net.namespace("a"), os.O_RDONLY)
            if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET) == 0:
                made.append(proxy.Proxy(address))
            os.close(fd)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        self.addCleanup(made[0].close)
        return made[0]

    def fail_to_move(self, guest):
        """A link that is cut when the target is ready: the last moment before COMMIT."""
        words = ("--container-link", LINK)
        target = self.recv(*words, "--container-network", self.bed.guest_network(self.b), "--lease", "2s",
                           "--ask-window", "1s")
        link = self.proxy(target.address)
        gate = link.gate(*BEFORE_COMMIT["Ready"])
        sender = self.send(guest, link.address, *words, *PATIENT, "--reconnect", "0s")
        gate.wait()
        link.cut()
        gate.drop()
        self.refusal(sender, codes=(FAILED,))
        self.ended(target, FAILED)

    def test_AConnectionGoesOnAtTheSourceWhenTheMigrationFails(self):
        guest = self.guest("--serve", PORT, netns=self.bed.guest_network(self.a))
        client = self.client("ping", testbed.GUEST_IP, PORT)
        self.fail_to_move(guest)
        self.assert_goes_on(guest)
        since = guest.loops()
        wait_for(lambda: guest.loops() > since + 500, "some time afterwards")
        seen = client.end()
        self.assertEqual((seen["errors"], seen["fault"]), (0, ""))
        # The last ones were after the failure, or it would have waited all the while.
        self.assertLess(seen["longest_stall_us"], _STALL_AT_MOST_US)
        self.assert_nothing_of_criu()
        self.assert_nothing_held()

    def assert_nothing_held(self):
        """No filter of packets is left at either host, and the target's port is as it was."""
        for host in (self.bed.a, self.bed.b):
            inside = os.path.basename(self.bed.guest_network(host))
            for space, link in ((inside, "eth0"), (self.bed.net.namespace(host.name), LINK)):
                for words in (("qdisc", "show", "dev", link, "clsact"), ("filter", "show", "dev", link, "ingress")):
                    shown = subprocess.run(["ip", "netns", "exec", space, "tc", *words], capture_output=True, text=True,
                                           check=False)
                    self.assertEqual(shown.stdout, "", f"{space} {link}")

    def assert_nothing_of_criu(self):
        """Its lock on the guest's network at the source."""
        inside = os.path.basename(self.bed.guest_network(self.a))
        tables = subprocess.run(["ip", "netns", "exec", inside, program("nft"), "list", "tables"], check=True,
                                capture_output=True, text=True)
        self.assertEqual(tables.stdout, "")

    def test_ConnectionsAreClosedWhereThatWasAskedFor(self):
        guest = self.guest("--serve", PORT, netns=self.bed.guest_network(self.a))
        client = self.client("ping", testbed.GUEST_IP, PORT)
        self.move_with_link(guest, "--tcp", "close", receiving=("--tcp", "close"))
        self.assert_goes_on(guest)
        self.assertNotEqual(client.end()["fault"], "")
        # Who comes anew is served.
        client = self.client("ping", testbed.GUEST_IP, PORT)
        since = guest.loops()
        wait_for(lambda: guest.loops() > since + 200, "some time")
        seen = client.end()
        self.assertEqual((seen["errors"], seen["fault"]), (0, ""))
        self.assertGreater(seen["messages"], 10)

    def test_NginxServesOnEveryByte(self):
        guest, file = servers.nginx(self.bed)
        client = self.client("fetch", testbed.GUEST_IP, PORT, "/file", "--expect", file, "--clients", 100,
                             "--pause-ms", 50)
        self.assertTrue(self.a.alive(guest.pid), "nginx has ended")
        self.move_with_link(guest)
        seen = client.end()
        self.assertEqual((seen["failures"], seen["wrong"], seen["fault"]), (0, 0, ""))
        self.assertGreater(seen["requests"], 100)
        self.assertLess(seen["longest_stall_us"], _STALL_AT_MOST_US)
        self.assert_nothing_held()

    def test_NginxIsReachedAnewAllTheWhile(self):
        """A connection for each request: none is refused, reset, or half made at one host and half at the other."""
        guest, file = servers.nginx(self.bed)
        client = self.client("fetch", testbed.GUEST_IP, PORT, "/file", "--expect", file, "--clients", 20,
                             "--pause-ms", 20, "--each-anew", 1)
        self.move_with_link(guest)
        seen = client.end()
        self.assertEqual((seen["failures"], seen["wrong"], seen["fault"]), (0, 0, ""))
        self.assertLess(seen["longest_stall_us"], _STALL_AT_MOST_US)

    def test_NginxServesOnAtTheSourceWhenTheMigrationFails(self):
        guest, file = servers.nginx(self.bed)
        client = self.client("fetch", testbed.GUEST_IP, PORT, "/file", "--expect", file, "--clients", 50,
                             "--pause-ms", 50)
        self.fail_to_move(guest)
        self.assertTrue(self.a.alive(guest.pid), "nginx has ended")
        again = self.client("fetch", testbed.GUEST_IP, PORT, "/file", "--expect", file, "--clients", 5)
        for one in (again, client):
            seen = one.end()
            self.assertEqual((seen["failures"], seen["wrong"], seen["fault"]), (0, 0, ""))
        self.assertLess(seen["longest_stall_us"], _STALL_AT_MOST_US)
        self.assert_nothing_held()

    def test_WhoeverKillsTheSenderLetsTheTreeGoOnWithItsConnections(self):
        """Its packets are held, and nobody is left to let them in but the guard."""
        guest = self.guest("--serve", PORT, netns=self.bed.guest_network(self.a))
        client = self.client("ping", testbed.GUEST_IP, PORT)
        words = ("--container-link", LINK)
        target = self.recv(*words, "--container-network", self.bed.guest_network(self.b), "--lease", "2s",
                           "--ask-window", "1s")
        link = self.proxy(target.address)
        gate = link.gate(*BEFORE_COMMIT["Ready"])
        sender = self.send(guest, link.address, *words)
        gate.wait()
        sender.kill()
        gate.drop()
        self.ended(target, FAILED)
        since = guest.loops()
        wait_for(lambda: guest.loops() > since + 500, "some time afterwards")
        seen = client.end()
        self.assertEqual((seen["errors"], seen["fault"]), (0, ""))
        self.assertLess(seen["longest_stall_us"], _STALL_AT_MOST_US)

    def test_RedisHasEveryAcknowledgedWrite(self):
        guest, ask = servers.redis(self.bed)
        # 64 MiB that stand still, beside what is written.
        self.assertEqual(ask("debug", "populate", "60000", "still", "1000"), "OK")
        out = self.scratch.new_file("acknowledged")
        # Ended below, or with its peer. pylint: disable-next=consider-using-with
        writer = subprocess.Popen([*self.bed.net.inside("client"), sys.executable, "-B", _WRITER, "write",
                                   testbed.GUEST_IP, str(PORT), out], stderr=subprocess.PIPE, text=True)
        self.addCleanup(writer.stderr.close)
        self.addCleanup(lambda: (writer.kill(), writer.wait()))
        wait_for(lambda: self._count(ask) > 200, "writes at the source")
        self.move_with_link(guest)
        before = self._count(ask)
        wait_for(lambda: self._count(ask) > before + 200 or writer.poll() is not None, "writes at the target")
        writer.terminate()
        self.assertEqual(writer.wait(), 0, writer.stderr.read())
        with open(out, encoding="ascii") as file:
            count = int(file.read().split()[0])
        wrong = subprocess.run([*self.bed.net.inside("client"), sys.executable, "-B", _WRITER, "check",
                                testbed.GUEST_IP, str(PORT), str(count)], capture_output=True, text=True, check=True)
        self.assertGreater(count, 400)
        self.assertEqual(wrong.stdout.strip(), "0")
        self.assertEqual(ask("strlen", "still:59999"), "1000")

    @staticmethod
    def _count(ask):
        return int(ask("dbsize") or "60000") - 60000


if __name__ == "__main__":
    unittest.main()
