"""Either side needs little beside the guest's memory."""

import unittest

from harness import DONE, TwoHosts, wait_for

_GUEST_MIB = 512
# 64 MiB and 16 bytes a page beside the guest's memory.
_LIMIT_KIB = 64 * 1024 + _GUEST_MIB * 256 * 16 // 1024


def _high_water_kib(pid):
    """The most memory a process has had at a time, the guest's included; None once it is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return None


class MemoryLimit(TwoHosts):
    def test_EitherSideStaysInItsLimit(self):
        memory = f"{_GUEST_MIB}M"
        source = self.a.run("writer:rate=100M,set=64M,fill=random", memory=memory)
        wait_for(lambda: self.work(self.a) > 0, "the guest to work")
        target = self.b.recv("--once")
        send = self.a.send(target.address, "--verify", "full")
        # It is gone at the end: the highest mark seen before.
        peak = 0
        while send.running():
            peak = max(peak, _high_water_kib(source.pid) or 0)
        self.report(send, "done", DONE)
        self.assertGreater(peak, _GUEST_MIB * 1024 // 2, "the source was seen at work")
        self.assertLessEqual(peak, _GUEST_MIB * 1024 + _LIMIT_KIB)
        self.assertLessEqual(_high_water_kib(target.pid), _GUEST_MIB * 1024 + _LIMIT_KIB)
        self.assert_runs(self.b)
        self.stop(self.b, target)


if __name__ == "__main__":
    unittest.main()
