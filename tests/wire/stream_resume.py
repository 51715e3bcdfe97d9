"""Rounds after a lost link, or after an attempt: where they go on, and which pages are void.

Written from docs/wire-format.md ("After a lost link", "After an attempt"). A capture has what the source sent, also what
never arrived: so a round that looks complete may turn out not to be, and is taken back.
"""

from stream_format import Violation


class Resume:
    """What RESUME, RESUMED, VOID, VOID_END and VOIDED do to stream_rules.Memory."""

    def __init__(self, memory):
        self.memory = memory
        self.state = None  # "asked", "voiding", "ended": what was said since the link was lost.
        self.before = {}  # round: memory before it, while it is not acknowledged
        self.sent = {}  # region: [(first, end)] sent in the round that starts over
        self.sent_in = None  # That round.
        self.named = {}  # region: pages that VOID has named since RESUMED or DISCARDED
        self.account = None  # "due", "dropped": of the attempt that was aborted, at the target.

    def must_be_over(self, name):
        if self.state is not None:
            raise Violation("resume", "%s before the void pages are agreed" % name)

    def completing(self, round_):
        memory = self.memory
        self.before[memory.completed] = (
            memory.digest, dict(memory.regions), {r: dict(t) for r, t in memory.table.items()},
            memory.next_handle, round_)

    def acknowledged(self):
        self.before.pop(self.memory.acknowledged - 1, None)

    def asked(self, message):
        if message["round"] != self.memory.acknowledged:
            raise Violation("resume", "RESUME names round %d, %d is the open one" %
                            (message["round"], self.memory.acknowledged), 72)
        self.state = "asked"

    def answered(self, message):
        memory, number = self.memory, message["round"]
        if not memory.acknowledged <= number <= min(memory.completed, memory.acknowledged + 1):
            raise Violation("resume", "RESUMED names round %d; %d are acknowledged, %d sent" %
                            (number, memory.acknowledged, memory.completed), 24)
        digest = memory.digests[number - 1] if number else 0
        if message["digest"] != digest:
            raise Violation("digest", "RESUMED's digest %016x should be %016x" %
                            (message["digest"], digest), 28)
        if number != self.sent_in:
            self.sent_in, self.sent = number, {}
        lost = [self.before[n][4] for n in self.before if n >= number]
        for round_ in lost + list(memory.rounds.values()):
            for region, taken in round_.taken.items():
                self.sent.setdefault(region, []).extend(taken)
        if number in self.before:
            (memory.digest, memory.regions, memory.table, memory.next_handle,
             _) = self.before[number]
        self.before.clear()
        del memory.digests[number:]
        memory.completed = memory.acknowledged = number
        memory.rounds = {}
        memory.lane_round = dict.fromkeys(memory.lanes, number)
        self.state, self.named = "voiding", {}

    def aborted(self):
        self.account, self.named = "due", {}

    def dropped(self):
        if self.account == "due":
            self.account = "dropped"

    def account_must_be_over(self, name):
        if self.account is not None:
            raise Violation("handover", "%s before the target's account of the attempt" % name)

    def forgotten(self, message):
        if self.account != "dropped":
            raise Violation("resume", "VOID of the target, and no attempt was aborted")
        self.name(message, self.named)

    def forgotten_end(self, message):
        if self.account != "dropped":
            raise Violation("resume", "VOID_END of the target, and no attempt was aborted")
        self.make_void(message, self.named)
        if self.memory.digests:
            self.memory.digests[-1] = self.memory.digest
        self.account = None

    def void(self, message):
        if self.state != "voiding":
            raise Violation("resume", "VOID without RESUMED")
        self.name(message, self.named)

    def name(self, message, into):
        """Takes the pages of a VOID record."""
        region = message["region"]
        if region not in self.memory.regions or any(r > region for r in into):
            raise Violation("resume", "VOID of region %d: not there, or not in order" % region, 24)
        named = into.setdefault(region, set())
        last = max(named, default=-1)
        for index, word in enumerate(message["words"]):
            for bit in range(64):
                if not word >> bit & 1:
                    continue
                page = message["first"] + 64 * index + bit
                if page >= self.memory.regions[region]["count"]:
                    raise Violation("region", "page %d is not in region %d" % (page, region), 40)
                if page <= last:
                    raise Violation("resume", "VOID names page %d twice or out of order" % page, 40)
                named.add(page)
                last = page

    def void_end(self, message):
        if self.state != "voiding":
            raise Violation("resume", "VOID_END without RESUMED")
        memory = self.memory
        for region, ranges in self.sent.items():
            for first, end in ranges:
                if region in memory.regions and not self.named.get(region, set()).issuperset(
                        range(first, end)):
                    raise Violation("resume", "pages %d to %d of region %d were sent, not all of "
                                    "them are void" % (first, end - 1, region))
        self.make_void(message, self.named)
        self.state = "ended"

    def make_void(self, message, all_named):
        """At VOID_END."""
        memory = self.memory
        pages = sum(len(named) for named in all_named.values())
        if message["pages"] != pages:
            raise Violation("resume", "VOID named %d pages, VOID_END says %d" %
                            (pages, message["pages"]), 24)
        for region, named in all_named.items():
            memory.table[region].update(dict.fromkeys(named))
        memory.digest = sum(memory.mix(region, page, value)
                            for region, table in memory.table.items()
                            for page, value in table.items()) % (1 << 64)
        if message["digest"] != memory.digest:
            raise Violation("digest", "VOID_END's digest %016x should be %016x" %
                            (message["digest"], memory.digest), 32)

    def voided(self, message):
        if self.state != "ended":
            raise Violation("resume", "VOIDED without VOID_END")
        if message["digest"] != self.memory.digest:
            raise Violation("digest", "VOIDED's digest %016x should be %016x" %
                            (message["digest"], self.memory.digest), 24)
        self.state = None

    def void_page(self):
        """What is wrong with an OFFER now."""
        for region, table in self.memory.table.items():
            for page, value in table.items():
                if value is None and not self.memory.lazy.accounts_for(region, page):
                    return Violation("resume", "page %d of region %d is void at OFFER" %
                                     (page, region))
        return None
