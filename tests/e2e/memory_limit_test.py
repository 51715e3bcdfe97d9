"""Either side needs little beside the guest's memory."""

import unittest

import proxy
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
    def assert_within_limit(self, fill, *options, slow=False):
        memory = f"{_GUEST_MIB}M"
        # Its set is sent again in every round, so that the cache of sent pages fills.
        source = self.a.run(f"writer:rate=100M,set=64M,fill={fill}", memory=memory)
        wait_for(lambda: self.work(self.a) > 0, "the guest to work")
        target = self.b.recv("--once")
        address = target.address
        if slow:
            link = proxy.Proxy(address)
            self.addCleanup(link.close)
            address = link.address
        send = self.a.send(address, *options)
        # It is gone at the end: the highest mark seen before.
        peak = 0
        while send.running():
            peak = max(peak, _high_water_kib(source.pid) or 0)
        report = self.report(send, "done", DONE)
        self.assertGreater(peak, _GUEST_MIB * 1024 // 2, "the source was seen at work")
        self.assertLessEqual(peak, _GUEST_MIB * 1024 + _LIMIT_KIB)
        self.assertLessEqual(_high_water_kib(target.pid), _GUEST_MIB * 1024 + _LIMIT_KIB)
        self.assert_runs(self.b)
        self.stop(self.b, target)
        return report

    def test_EitherSideStaysInItsLimit(self):
        self.assert_within_limit("random", "--verify", "full")

    def test_PackingOnManyLanesOverASlowLinkStaysInTheLimit(self):
        report = self.assert_within_limit("text", "--lanes", "8", "--compress", "zstd:3",
                                          "--max-downtime", "20ms", slow=True)
        self.assertGreater(report["pages"]["compressed"], 0)

    def test_ChoosingByItselfOverASlowLinkStaysInTheLimit(self):
        self.assert_within_limit("text", "--lanes", "8", "--bandwidth", "1Gbit",
                                 "--max-downtime", "20ms", slow=True)


if __name__ == "__main__":
    unittest.main()
