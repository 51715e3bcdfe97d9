"""Pages that follow the guest: which they are, how they come, and when all have.

Written from docs/wire-format.md ("Post-copy"). A capture has what the source sent, also what never arrived: the target's
list after a lost link says which of it counts.
"""

from page_content import RAW, ZEROS
from stream_format import Violation


class Lazy:
    """What LAZY and all that follows it do to stream_rules.Memory."""

    def __init__(self, memory):
        self.memory = memory
        self.terms = None  # LAZY of the control lane.
        self.lanes = set()  # Bulk lanes that have said LAZY.
        self.announced = None
        # None, "announced", "granules", "listed" (VOIDED is due), "agreed", "relisted", "served",
        # and after a lost link "asked", "missing".
        self.state = None
        self.granules = {}
        self.pages = {}  # region: pages of the two lists
        self.listed = {}  # The same of the list that is being told.
        self.missing = {}  # region: those not sent, or sent in vain
        self.installed = {}
        self.come = {}  # (region, page): the hash with which it was sent
        self.early = []  # PAGES that came before the second list; lanes are not in step.
        self.offered_digest = None
        self.complete = False

    def begun(self):
        return bool(self.lanes)

    def must_not_have_begun(self, name):
        if self.begun():
            raise Violation("lazy", "%s after LAZY" % name)

    def on_bulk_lane(self, lane, message):
        memory = self.memory
        if memory.lane_round[lane] != message["round"] or not memory.all_complete():
            raise Violation("lazy", "LAZY of round %d inside a round" % message["round"], 24)
        if lane in self.lanes or self.announced not in (None, message):
            raise Violation("lazy", "LAZY twice, or not the same on all lanes")
        self.lanes.add(lane)
        self.announced = message

    def on_control(self, message):
        memory = self.memory
        if self.state is not None or message != self.announced or self.lanes != set(
                memory.lanes[1:]):
            raise Violation("lazy", "LAZY on the control lane, and not on all bulk lanes before")
        open_ = memory.rounds.get(message["round"])
        begun = open_ is not None and (open_.entries or open_.changes)
        if memory.acknowledged != message["round"] or begun:
            raise Violation("lazy", "LAZY before all rounds are acknowledged", 24)
        self.terms, self.state = message, "announced"

    def may_join_urgent(self):
        return self.state in (None, "announced", "missing")

    def on_terms(self, message):
        if self.state != "announced":
            raise Violation("lazy", "LAZY_TERMS answers no LAZY")
        for region, pages in message["granules"]:
            if region not in self.memory.regions or region in self.granules:
                raise Violation("lazy", "a granule of region %d, which is not there" % region)
            self.granules[region] = pages
        self.state = "granules"

    def void(self, message):
        if self.state not in ("granules", "agreed"):
            raise Violation("lazy", "VOID where no list is due")
        self.memory.resume.name(message, self.listed)

    def void_end(self, message, state_ended):
        if self.state not in ("granules", "agreed") or (self.state == "agreed") != state_ended:
            raise Violation("lazy", "VOID_END where no list is due")
        for region, named in self.listed.items():
            if named & self.pages.get(region, set()):
                raise Violation("lazy", "the second list names a page of the first")
            self._check_granules(region, named)
        self.memory.resume.make_void(message, self.listed)
        for region, named in self.listed.items():
            self.pages.setdefault(region, set()).update(named)
            self.missing.setdefault(region, set()).update(named)
        self.listed = {}
        self.state = "listed" if self.state == "granules" else "relisted"

    def _check_granules(self, region, named):
        unit, count = self.granules.get(region, 1), self.memory.regions[region]["count"]
        for first in {page - page % unit for page in named} if unit > 1 else ():
            if not named.issuperset(range(first, min(first + unit, count))):
                raise Violation("lazy", "the unit of page %d of region %d is named in part" %
                                (first, region))

    def voided(self, message):
        if self.state != "listed":
            raise Violation("lazy", "VOIDED without VOID_END")
        if message["digest"] != self.memory.digest:
            raise Violation("digest", "VOIDED's digest %016x should be %016x" %
                            (message["digest"], self.memory.digest), 24)
        self.state = "agreed"

    def may_offer(self):
        return self.state == "relisted"

    def offered(self):
        self.state, self.offered_digest = "served", self.memory.digest
        for batch, table, where in self.early:
            try:
                self.sent(batch, table, where)
            except Violation as violation:
                violation.where = where
                raise
        self.early = []

    def accounts_for(self, region, page):
        return page in self.pages.get(region, ())

    def sent(self, batch, table, where):
        """Pages of a bulk or the urgent lane."""
        if self.state in ("agreed", "relisted"):
            self.early.append((batch, table, where))
            return
        if self.state != "served":
            raise Violation("lazy", "lazy pages before VOIDED, or before the lanes are back")
        if batch["round"] != self.terms["round"]:
            raise Violation("round", "lazy pages of round %d" % batch["round"], 28)
        region, memory = batch["region"], self.memory
        for byte, encoding, first, count, value, content in table:
            if encoding not in (RAW, ZEROS) or content is None and encoding == RAW:
                raise Violation("lazy", "encoding %d, or a codec, of lazy pages" % encoding, byte)
            if encoding == RAW:
                memory.check_content(region, first, value, content, byte)
            for page in range(first, first + count):
                if not self.accounts_for(region, page):
                    raise Violation("lazy", "page %d of region %d is none of those that follow" %
                                    (page, region), byte)
                self._take(region, page, value if encoding == RAW else memory.zero_hash, byte)
        memory.pages_sent += batch["pages"]

    def _take(self, region, page, value, byte):
        if self.come.setdefault((region, page), value) != value:
            raise Violation("lazy", "page %d of region %d is another one than it was" %
                            (page, region), byte)
        if page in self.missing[region]:
            self.missing[region].remove(page)
            self.memory.put(region, page, value)

    def demand(self, message):
        if self.state != "served":
            raise Violation("lazy", "DEMAND before OFFER")
        for region, first, count in message["wanted"]:
            if not all(self.accounts_for(region, page) for page in range(first, first + count)):
                raise Violation("lazy", "DEMAND of page %d of region %d, which does not follow" %
                                (first, region))

    def told_installed(self, message):
        if self.state != "served" or not self.terms["installed"] or self.complete:
            raise Violation("lazy", "INSTALLED was not asked for, or comes too early or late")
        named = {}
        self.memory.resume.name(message, named)
        for region, pages in named.items():
            before = self.installed.setdefault(region, set())
            if pages & before or not pages <= self.pages.get(region, set()) - self.missing[region]:
                raise Violation("lazy", "INSTALLED of a page that was not sent, or twice")
            before |= pages

    def told_complete(self, message):
        if self.state != "served" or self.complete:
            raise Violation("lazy", "COMPLETE of nothing, or twice")
        left = sum(len(pages) for pages in self.missing.values())
        if left:
            raise Violation("lazy", "COMPLETE, and %d pages were never sent" % left)
        if message["digest"] != self.memory.digest:
            raise Violation("digest", "COMPLETE's digest %016x should be %016x" %
                            (message["digest"], self.memory.digest), 32)
        self.complete = True

    # After a lost link.

    def asked(self, message, started):
        if not started or message["round"] != self.terms["round"]:
            raise Violation("lazy", "RESUME of round %d, or before STARTED" % message["round"], 72)
        self.state, self.listed = "asked", {}
        self.complete = False
        self.installed = {}

    def answered(self, message):
        if message["round"] != self.terms["round"]:
            raise Violation("lazy", "RESUMED names round %d" % message["round"], 24)
        self.resumed_digest = message["digest"]

    def missed(self, message):
        if self.state != "asked":
            raise Violation("lazy", "VOID of the target, and the source has not come back")
        self.memory.resume.name(message, self.listed)

    def missed_end(self, message):
        if self.state != "asked":
            raise Violation("lazy", "VOID_END of the target, and the source has not come back")
        for region, named in self.listed.items():
            if not named <= self.pages.get(region, set()):
                raise Violation("lazy", "a page is missing that does not follow")
        for region, missing in self.missing.items():
            if not missing <= self.listed.get(region, set()):
                raise Violation("lazy", "the target has pages that were never sent")
        self.memory.resume.make_void(message, self.listed)
        if self.resumed_digest != message["digest"]:
            raise Violation("digest", "RESUMED and VOID_END have different digests", 32)
        self.missing = {region: set(self.listed.get(region, ())) for region in self.pages}
        self.state = "missing"

    def back(self):
        """The urgent lane has joined again, the last of all."""
        if self.state == "missing":
            self.state = "served"
