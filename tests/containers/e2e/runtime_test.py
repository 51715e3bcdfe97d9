"""Containers of real runtimes, and others with a root and mounts of their own, move whole."""

import os
import stat
import unittest

# It says where the others are. pylint: disable=wrong-import-order
from migrations import DONE, NAME, REFUSED, Migrations, wait_for
import runtimes
from guests import Program
from hosts import LINK, PORT, program, testbed

# A file that is mounted there from outside, at each host another one.
_PLACE = "/etc/place"
_HIDDEN = ("/proc/acpi", "/proc/scsi", "/sys/firmware", "/proc/keys", "/proc/timer_list")
_FACTS = ("CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Uid")


class Containers(Migrations):
    def own_file(self, host):
        """A file of that host, to be mounted in containers."""
        path = os.path.join(self.scratch.path, "place-" + host.name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(host.name)
        return path

    def receiving(self, host, root, key=_PLACE):
        return ("--container-root", root, "--container-external", f"mnt[{key}]:{self.own_file(host)}")

    def place(self, guest):
        with open(guest.host.proc(guest.pid, "root" + _PLACE), encoding="utf-8") as file:
            return file.read()

    @staticmethod
    def mounts(guest):
        """(Where, what, ro or rw) in it."""
        with open(guest.host.proc(guest.pid, "mountinfo"), encoding="utf-8") as file:
            lines = [line.split() for line in file]
        return sorted((words[4], words[words.index("-") + 1], words[5].split(",")[0]) for words in lines
                      # What hides a folder is an empty one of whatever kind.
                      if words[4] not in _HIDDEN)

    @staticmethod
    def facts(guest):
        with open(guest.host.proc(guest.pid, "status"), encoding="utf-8") as file:
            lines = (line.rstrip("\n").split(":", 1) for line in file)
            return {name: value.split() for name, value in lines if name in _FACTS}

    def hostname(self, guest):
        return guest.host.run_in("nsenter", "-t", guest.pid, "-u", "uname", "-n").strip()

    def move_on(self, guest, target, *receiving, words=()):
        """As one that has arrived: sent by the process that hosts it, which was told all that matters."""
        guest.called = "vm:" + NAME
        self.move(guest, target, *words, receiving=receiving)


class Namespaces(Containers):
    def test_AMountFromOutsideHasItsPlaceAtEachHost(self):
        root = self.bed.container_root()
        os.makedirs(os.path.join(root, "etc"))

        def start(*words, **options):
            return self.a.start_container(*words, bind=f"{self.own_file(self.a)}={_PLACE}", **options)

        guest = self.guest("--size", 16, container=root, tmpfs="/tmp", start=start)
        self.assertEqual(self.place(guest), "a")
        before = self.mounts(guest)
        named = ("--container-external", f"mnt[{_PLACE}]:named")
        self.refusal(self.send(guest, self.recv("--container-root", root).address, *named),
                     _PLACE, "--container-external 'mnt[named]:", codes=(REFUSED,))
        self.assert_goes_on(guest)
        self.move(guest, self.b, *named, receiving=self.receiving(self.b, root, "named"))
        self.assertEqual((self.place(guest), self.mounts(guest)), ("b", before))
        self.assert_goes_on(guest)
        self.move_on(guest, self.a, *self.receiving(self.a, root, "named"))
        self.assertEqual((self.place(guest), self.mounts(guest)), ("a", before))
        self.assert_goes_on(guest)


class Outputs(Migrations):
    def numbers(self, path):
        if not os.path.exists(path):
            return []
        with open(path, encoding="ascii") as file:
            return [int(line) for line in file if line.endswith("\n")]

    def test_APipeThatIsReadOutsideIsReadAtTheTarget(self):
        at_source, at_target = (self.scratch.new_file(name) for name in ("source", "target"))
        script = "import itertools, time; [(print(n, flush=True), time.sleep(0.002)) for n in itertools.count()]"
        shell = f'setsid {program("python3")} -S -c "{script}" </dev/null 2>/dev/null | cat >{at_source}'
        guest = Program(self.a, "sh", "-c", shell)
        wait_for(lambda: len(self.numbers(at_source)) > 100, "its output")
        guest.pid = next(pid for pid in self.a.all_pids() if self.writes_to_pipe(pid))
        target = self.recv("--container-output", at_target)
        self.ended(self.send(guest, target.address), DONE)
        wait_for(lambda: len(self.numbers(at_target)) > 500, "its output at the target")
        here, there = self.numbers(at_source), self.numbers(at_target)
        self.assertEqual(here, list(range(len(here))))
        self.assertEqual(there, list(range(there[0], there[0] + len(there))))
        # What stood in the pipe may have been read at both.
        self.assertLessEqual(there[0], here[-1] + 1)
        self.b.json("stop", NAME)

    def writes_to_pipe(self, pid):
        try:
            with open(self.a.proc(pid, "comm"), encoding="utf-8") as file:
                shell = file.read().strip() in ("sh", "cat", "setsid", "container_host")
            return not shell and os.readlink(self.a.proc(pid, "fd/1")).startswith("pipe:")
        except OSError:
            return False


class Runtimes(Containers):
    network = True

    def there_and_back(self, name, strategy):
        """With a client's connection all the while."""
        why = runtimes.problem(name)
        if why:
            self.skipTest(why)
        root = self.bed.container_root()
        outside = {"destination": _PLACE, "type": "bind", "source": self.own_file(self.a), "options": ["bind", "ro"]}
        runtime = runtimes.Runtime(self.a, name, os.path.join(self.scratch.path, "bundle"), [outside])
        guest = self.guest("--size", 16, "--serve", PORT, container=root, netns=self.bed.guest_network(self.a),
                           start=runtime.start)
        client = self.client("ping", testbed.GUEST_IP, PORT)
        before = self.facts(guest)
        self.assertEqual(before["Seccomp"], ["2"])
        mounts = self.mounts(guest)
        self.assertIn(("/sys/fs/cgroup", "cgroup2", "ro"), mounts)
        for target, called in ((self.b, runtime.container), (self.a, "vm:" + NAME)):
            guest.called = called
            words = () if called.startswith("vm:") else ("--container-link", LINK)
            self.move(guest, target, *words, strategy=strategy,
                      receiving=(*self.receiving(target, root), "--container-link", LINK, "--container-network",
                                 self.bed.guest_network(target)))
            self.assertEqual((self.facts(guest), self.mounts(guest), self.place(guest), self.hostname(guest)),
                             (before, mounts, target.name, runtimes.ID))
            self.assert_hidden_and_counted(guest)
            self.assert_goes_on(guest)
            if target is self.b:
                self.assertEqual(runtime.state()["status"], "stopped")
                runtime.delete()
        served = guest.loops()
        wait_for(lambda: guest.loops() > served + 200, "some time at the end")
        seen = client.end()
        self.assertEqual((seen["errors"], seen["fault"]), (0, ""))
        self.assertGreater(seen["messages"], 100)

    def assert_hidden_and_counted(self, guest):
        inside = guest.host.proc(guest.pid, "root")
        self.assertTrue(stat.S_ISCHR(os.stat(inside + "/proc/keys").st_mode))
        self.assertEqual(os.listdir(inside + "/sys/firmware"), [])
        with open(inside + "/sys/fs/cgroup/cgroup.procs", encoding="ascii") as file:
            self.assertEqual(len(file.read().split()), 1)

    def test_ARuncContainerMovesThereAndBackWithItsConnection(self):
        self.there_and_back("runc", "precopy")

    def test_ACrunContainerMovesThereAndBackWithItsConnection(self):
        self.there_and_back("crun", "hybrid")


if __name__ == "__main__":
    unittest.main()
