"""The rig itself: the guest notices what is wrong, and plain CRIU moves it between the hosts."""

import os
import re
import time
import unittest

from container_case import TwoContainerHosts
from guests import gaps
from hosts import CRIU, PORT, criu_version, testbed, wait_for
from plain import plain_move

# Sockets of the internet on Linux 6.16 and later.
_CRIU_WITH_TCP = (4, 2)


class Rig(TwoContainerHosts):
    def test_GuestNoticesAWrongPage(self):
        guest = self.guest("--size", 16, "--rate", 0)
        self.assert_memory_right(guest)
        with open(self.a.proc(guest.pid, "maps"), encoding="utf-8") as file:
            areas = [[int(end, 16) for end in line.split()[0].split("-")] for line in file if " rw-p " in line]
        start, _ = max(areas, key=lambda area: area[1] - area[0])
        with open(self.a.proc(guest.pid, "mem"), "r+b", buffering=0) as memory:
            memory.seek(start + 5 * 4096 + 100)
            memory.write(b"\xff")
        found = guest.verify()[0]
        self.assertEqual((found["verify_errors"], found["bad"]), (1, "anon page 5; "))

    def test_StampsShowHowLongTheGuestStood(self):
        guest = self.guest("--size", 16)
        freeze = os.path.join(self.guest_cgroup(self.a), "cgroup.freeze")
        since = time.time_ns()
        with open(freeze, "w", encoding="utf-8") as file:
            file.write("1")
        wait_for(lambda: time.time_ns() > since + 300e6, "0.3 s")
        with open(freeze, "w", encoding="utf-8") as file:
            file.write("0")
        self.assert_goes_on(guest)
        self.assertGreater(gaps(guest.stamps, since)[0][0], 290)

    def guest_cgroup(self, host):
        with open(host.proc(host.all_pids()[0], "cgroup"), encoding="utf-8") as file:
            path = next(line.split("::")[1].strip() for line in file if line.startswith("0::"))
        with open("/proc/self/mounts", encoding="utf-8") as file:
            mount = next(line.split()[1] for line in file if line.split()[2] == "cgroup2")
        return mount + path

    def test_PlainCriuMovesAProcess(self):
        kinds = "anon,thp,shared,memfd,mlocked,brk,stack,file,guard,dontneed,mremap,churn,grow"
        guest = self.guest("--kind", kinds, "--size", 8, "--timers")
        self.assertEqual(guest.missing, "")
        plain_move(guest, self.a, self.b)
        self.assertFalse(self.a.alive(guest.pid))
        self.assert_goes_on(guest)

    def test_PlainCriuMovesATree(self):
        guest = self.guest("--kind", "anon,shared", "--size", 16, "--tree", 8, "--links", "--timers", tree=8)
        before = guest.verify()
        plain_move(guest, self.a, self.b)
        self.assert_goes_on(guest)
        after = guest.verify()
        for role, found in after.items():
            for counter in ("messages", "interval_timer", "posix_timer", "timer_fd"):
                self.assertGreater(found[counter], before[role][counter], (role, counter))

    def test_PlainCriuMovesAContainer(self):
        root = self.bed.container_root()
        guest = self.guest("--kind", "anon,sysv,shared", "--size", 16, "--file", "/tmp/checked", container=root,
                           tmpfs="/tmp")
        self.assertEqual(guest.missing, "")
        plain_move(guest, self.a, self.b, restore=("--root", root))
        self.assert_goes_on(guest)


class RigOnANetwork(TwoContainerHosts):
    network = True

    def test_PlainCriuKeepsAConnection(self):
        if criu_version() < _CRIU_WITH_TCP and self.kernel() >= (6, 16):
            self.skipTest(f"{CRIU} cannot dump sockets of this kernel")
        guest = self.guest("--serve", PORT, netns=self.bed.guest_network(self.a))
        client = self.client("ping", testbed.GUEST_IP, PORT)
        since = guest.loops()
        wait_for(lambda: guest.loops() > since + 100, "some time of the guest")
        plain_move(guest, self.a, self.b, network=(self.bed.external_network(self.a), self.bed.guest_network(self.b)))
        since = guest.loops()
        wait_for(lambda: guest.loops() > since + 500, "some time of the guest at its target")
        self.assert_memory_right(guest)
        seen = client.end()
        self.assertEqual((seen["errors"], seen["fault"]), (0, ""))
        self.assertGreater(seen["messages"], 100)
        self.assertLess(seen["longest_stall_us"], 20e6)

    @staticmethod
    def kernel():
        return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


if __name__ == "__main__":
    unittest.main()
