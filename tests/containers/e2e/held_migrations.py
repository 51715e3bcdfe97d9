"""A migration that is held at a record of its protocol, and where its guest must be afterwards."""

import proxy
from migrations import Migrations, wait_for

# 64 MiB at 50 MB/s, against 20 MB/s of writes: several rounds.
SLOW = ("--bandwidth", "400Mbit")
BRIEF = ("--hello-timeout", "2s", "--lease", "2s", "--ask-window", "1s")


class HeldMigrations(Migrations):
    def begin(self, where, recv=BRIEF, send=(), criu=None):
        """A migration that is held at a record, with that CRIU at the target; none: it is not held."""
        self.moving = self.guest("--size", 64, "--timers", "--links", "--tree", 2, tree=2)
        self.target = self.recv(*recv, criu=criu)
        self.link = proxy.Proxy(self.target.address)
        self.addCleanup(self.link.close)
        self.gate = self.link.gate(*where) if where else None
        self.sender = self.send(self.moving, self.link.address, *SLOW, "--reconnect", "0s", *send)
        if where:
            self.gate.wait()

    def expect_at_source(self):
        """Nothing is left at the target, and a second migration succeeds."""
        self.assert_goes_on(self.moving)
        self.assert_empty(self.b)
        self.move(self.moving, self.b)
        self.assert_goes_on(self.moving)

    def expect_one(self):
        """Nobody can tell beforehand which."""
        running = wait_for(lambda: [host for host in (self.a, self.b) if self.runs_at(self.moving, host)],
                           "one of the hosts to run the guest")
        self.assertEqual(len(running), 1, "it runs twice")
        other = self.b if running[0] is self.a else self.a
        wait_for(lambda: not other.alive(self.moving.pid), "the other copy to go")
        self.moving.host = running[0]
        self.assert_goes_on(self.moving)


__all__ = ["SLOW", "BRIEF", "HeldMigrations"]
