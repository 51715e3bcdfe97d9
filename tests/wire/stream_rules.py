"""What may follow what: memory (rounds, barriers, digests) and handover (attempts).

Written from docs/wire-format.md. Both classes are told of records in the order of the capture; they
raise Violation. A capture taken at the target may show a lane's records before another lane's older
ones, so rounds are judged when all lanes have reached their barrier.
"""

import bisect
import struct

from page_content import DELTA, DUPLICATE, PAGE, RAW, ZEROS, Broken, apply_delta
from stream_format import Violation
from stream_lazy import Lazy
from stream_resume import Resume
from xxh3 import xxh3_64

CONTROL = 0
PAGE_NUMBER_MAX = 1 << 52
_MASK = (1 << 64) - 1


class _Round:
    def __init__(self):
        self.entries = {}  # lane: [(where, byte, region, encoding, first, count, value, content)]
        self.barriers = {}  # lane: message
        self.changes = []  # REGIONS
        self.taken = {}  # region: sorted [(first, end)] of the pages that were sent

    def take(self, region, first, end, byte):
        """A page comes at most once in a round, whatever the lane."""
        taken = self.taken.setdefault(region, [])
        at = bisect.bisect_left(taken, (first, first))
        if (at < len(taken) and taken[at][0] < end) or (at > 0 and taken[at - 1][1] > first):
            raise Violation("page-twice", "page %d of region %d, or one after it, was already sent "
                            "in this round" % (first, region), byte)
        taken.insert(at, (first, end))

    def has(self, region, page):
        taken = self.taken.get(region, [])
        at = bisect.bisect_right(taken, (page, PAGE_NUMBER_MAX))
        return at > 0 and taken[at - 1][1] > page


class Memory:
    """The page table an attentive target would have."""

    def __init__(self, secret, regions, bulk_lanes):
        self.secret = secret
        self.zero_hash = xxh3_64(bytes(PAGE), secret) or 1
        self.lanes = [CONTROL] + list(range(1, bulk_lanes + 1))
        self.lane_round = dict.fromkeys(self.lanes, 0)
        self.rounds = {0: _Round()}
        self.completed = 0
        self.digests = []  # After each completed round.
        self.digest = 0
        self.acknowledged = 0
        self.pages_sent = 0
        self.next_handle = 0
        self.regions = {}
        self.table = {}  # region: {page: hash}, pages that are not zero; None: void
        self._hashes = {}  # content: hash
        self._contents = {self.zero_hash: bytes(PAGE)}  # hash: content, as far as it is known
        self._change_regions({"first": 0, "added": regions, "removed": []})
        self.resume = Resume(self)
        self.lazy = Lazy(self)

    def total_pages(self):
        return sum(region["count"] for region in self.regions.values())

    def pages(self, lane, batch, table, where):
        self.resume.must_be_over("PAGES")
        if self.lazy.begun():
            return self.lazy.sent(batch, table, where)
        if batch["round"] != self.lane_round[lane]:
            raise Violation("round", "pages of round %d on a lane that is in round %d" %
                            (batch["round"], self.lane_round[lane]), 28)
        round_ = self.rounds.setdefault(batch["round"], _Round())
        for byte, encoding, first, count, value, content in table:
            if encoding == RAW and content is not None:
                self.check_content(batch["region"], first, value, content, byte)
            round_.take(batch["region"], first, first + count, byte)
            round_.entries.setdefault(lane, []).append(
                (where, byte, batch["region"], encoding, first, count, value, content))
        self.pages_sent += batch["pages"]

    def change_regions(self, change):
        """Takes effect when the control lane's round is complete."""
        self.resume.must_be_over("REGIONS")
        self.lazy.must_not_have_begun("REGIONS")
        changes = self.rounds.setdefault(self.lane_round[CONTROL], _Round()).changes
        if changes:
            raise Violation("region", "REGIONS twice in a round")
        changes.append(change)

    def barrier(self, lane, message):
        self.resume.must_be_over("BARRIER")
        self.lazy.must_not_have_begun("BARRIER")
        number = self.lane_round[lane]
        if message["round"] != number:
            raise Violation("round", "a barrier of round %d on a lane that is in round %d" %
                            (message["round"], number), 24)
        self.rounds.setdefault(number, _Round()).barriers[lane] = message
        self.lane_round[lane] += 1
        while len(self.rounds.get(self.completed, _Round()).barriers) == len(self.lanes):
            self._complete(self.rounds.pop(self.completed))

    def all_complete(self):
        return all(number == self.completed for number in self.lane_round.values())

    def acknowledge(self, message):
        if message["round"] != self.acknowledged or self.acknowledged >= self.completed:
            raise Violation("round", "round %d is acknowledged, %d is the oldest open one" %
                            (message["round"], self.acknowledged), 24)
        if message["digest"] != self.digests[self.acknowledged]:
            raise Violation("digest", "the target's digest %016x after round %d should be %016x" %
                            (message["digest"], message["round"], self.digests[message["round"]]),
                            28)
        self.acknowledged += 1
        self.resume.acknowledged()

    def check_content(self, region, page, value, content, byte):
        if self._hash(content) != value:
            raise Violation("page-hash", "page %d of region %d is not what its hash says" %
                            (page, region), byte)
        self._contents[value] = content

    def _hash(self, content):
        if content not in self._hashes:
            self._hashes[content] = xxh3_64(content, self.secret) or 1
        return self._hashes[content]

    def mix(self, region, page, value):
        if value is None or value == self.zero_hash:
            return 0
        return xxh3_64(struct.pack("<QQQ", region, page, value), self.secret)

    def put(self, region, page, value):
        """Outside of rounds."""
        self.digest = (self.digest + self._set(region, page, value)) & _MASK

    def _set(self, region, page, value):
        """Changes the table; returns how the digest changes."""
        pages = self.table[region]
        before = pages.pop(page, self.zero_hash)
        if value != self.zero_hash:
            pages[page] = value
        return self.mix(region, page, value) - self.mix(region, page, before)

    def _apply(self, round_, where, byte, region, encoding, first, count, value, content):
        try:
            if region not in self.regions or first + count > self.regions[region]["count"]:
                raise Violation("region", "pages %d to %d are not in a region %d" %
                                (first, first + count - 1, region), byte)
            if encoding == DELTA:
                self._check_delta(region, first, value, content, byte)
            elif encoding == DUPLICATE:
                self._check_duplicate(round_, region, first, value, content, byte)
        except Violation as violation:
            violation.where = where
            raise
        return self._set(region, first, value) if encoding != ZEROS else self._clear(
            region, first, count)

    def _check_delta(self, region, page, value, delta, byte):
        """A delta is against the round before: no other entry of this round has the page."""
        base = self.table[region].get(page, self.zero_hash)
        if base is None:
            raise Violation("resume", "a delta of page %d of region %d, which is void" %
                            (page, region), byte)
        base = self._contents.get(base)
        if delta is None or base is None:
            return  # Not unpacked.
        try:
            content = apply_delta(base, delta)
        except Broken as broken:
            raise Violation(broken.rule, "page %d of region %d: %s" % (page, region, broken.text),
                            byte) from None
        self.check_content(region, page, value, content, byte)

    def _check_duplicate(self, round_, region, page, value, original, byte):
        if original is None:
            return  # Not unpacked.
        other, there = original
        if other not in self.regions or there >= self.regions[other]["count"]:
            raise Violation("duplicate", "page %d of region %d is not there" % (there, other), byte)
        if round_.has(other, there):
            raise Violation("duplicate", "page %d of region %d is sent in the same round" %
                            (there, other), byte)
        known = self.table[other].get(there, self.zero_hash)
        if known is None:
            raise Violation("resume", "a duplicate of page %d of region %d, which is void" %
                            (there, other), byte)
        if known != value:
            raise Violation("page-hash", "page %d of region %d is not equal to page %d of region %d"
                            % (page, region, there, other), byte)

    def _clear(self, region, first, count):
        # A run of zeros may be long, the table short.
        known = self.table[region]
        pages = range(first, first + count) if count < len(known) else [
            page for page in known if first <= page < first + count]
        return sum(self._set(region, page, self.zero_hash) for page in list(pages))

    def _complete(self, round_):
        self.resume.completing(round_)
        total_pages, total_change = 0, 0
        finals = {message["final"] for message in round_.barriers.values()}
        if len(finals) != 1:
            raise Violation("round", "the lanes do not agree whether it is the final round", 28)
        for lane in self.lanes[1:]:
            entries = round_.entries.get(lane, [])
            change = sum(self._apply(round_, *entry) for entry in entries) & _MASK
            pages = sum(entry[5] for entry in entries)
            self._check_barrier("lane %d" % lane, round_.barriers[lane], pages, change)
            total_pages += pages
            total_change += change
        total_change &= _MASK
        self._check_barrier("the control lane", round_.barriers[CONTROL], total_pages, total_change)
        self.digest = (self.digest + total_change) & _MASK
        for change in round_.changes:
            self._change_regions(change)
        self.digests.append(self.digest)
        self.completed += 1

    def _check_barrier(self, lane, message, pages, change):
        if message["pages"] != pages:
            raise Violation("round", "%s carried %d pages in round %d, its barrier says %d" %
                            (lane, pages, message["round"], message["pages"]), 29)
        if message["change"] != change:
            raise Violation("digest", "%s changed the digest by %016x in round %d, its barrier "
                            "says %016x" % (lane, change, message["round"], message["change"]), 37)

    def _change_regions(self, change):
        for handle in change["removed"]:
            if handle not in self.regions:
                raise Violation("region", "region %d is removed, but is not there" % handle)
            for page, value in self.table.pop(handle).items():
                self.digest = (self.digest - self.mix(handle, page, value)) & _MASK
            del self.regions[handle]
        if change["first"] != self.next_handle and change["added"]:
            raise Violation("region", "new regions are numbered from %d, not from %d" %
                            (change["first"], self.next_handle))
        for region in change["added"]:
            for other in self.regions.values():
                apart = (region["id"][0] != other["id"][0] or
                         region["first"] >= other["first"] + other["count"] or
                         other["first"] >= region["first"] + region["count"])
                if region["id"] == other["id"] or not apart:
                    raise Violation("region", "two regions share an id or pages")
            self.regions[self.next_handle] = region
            self.table[self.next_handle] = {}
            self.next_handle += 1


class Handover:
    """Attempts: state, OFFER, READY, COMMIT, STARTED, RELEASED, and how they end otherwise."""

    def __init__(self, memory, limits):
        self.memory, self.limits = memory, limits
        self.attempt = 1  # The current one.
        self.ended, self.discarded = set(), set()
        self.offered, self.ready, self.committed, self.started = set(), set(), set(), set()
        self.over = None  # How the session ended.
        self.last_answer = None
        self._begin()

    def _begin(self):
        self.section_bytes = None  # None outside a section.
        self.sections, self.bytes = 0, 0
        self.state_ended, self.final = False, False
        self.offer_to_check = None

    def _end(self, attempt):
        if attempt == self.attempt:
            self.attempt += 1
            self._begin()
        self.ended.add(attempt)

    def must_not_have_begun(self):
        """For RESUME."""
        if self.section_bytes is not None or self.sections or self.state_ended or self.final:
            raise Violation("resume", "RESUME in an attempt")

    def before_offer(self, name):
        """For what belongs to rounds and state: not between OFFER and the end of the attempt."""
        if self.attempt in self.offered:
            raise Violation("handover", "%s after OFFER of attempt %d" % (name, self.attempt))
        if self.section_bytes is not None and not name.startswith("SECTION"):
            raise Violation("state", "%s inside a section" % name)

    def control_barrier(self, message):
        if self.final:
            raise Violation("round", "another barrier after the attempt's final one")
        self.final = message["final"] == 1

    def check_offer(self):
        """Once the final round is complete."""
        if self.offer_to_check is None or not self.memory.all_complete():
            return
        offer, where = self.offer_to_check
        self.offer_to_check = None
        violation = self.memory.resume.void_page()
        if offer["digest"] != self.memory.digest:
            violation = Violation("digest", "the offered digest is %016x, the pages sent make %016x"
                                  % (offer["digest"], self.memory.digest), 30)
        elif offer["total_pages"] != self.memory.total_pages():
            violation = Violation("digest", "%d pages are offered, the regions have %d" %
                                  (offer["total_pages"], self.memory.total_pages()), 46)
        if violation:
            violation.where = where
            raise violation

    def section_begin(self, _message):
        if self.section_bytes is not None or self.state_ended:
            raise Violation("state", "a section begins inside another or after STATE_END")
        self.section_bytes = 0

    def section_data(self, size):
        if self.section_bytes is None or not 0 < size <= self.limits["chunk_bytes"]:
            raise Violation("state", "a chunk outside a section, or of %d bytes" % size)
        self.section_bytes += size
        if self.bytes + self.section_bytes > self.limits["state_bytes"]:
            raise Violation("state", "the state is larger than the target takes")

    def section_end(self, message):
        if self.section_bytes is None or message["bytes"] != self.section_bytes:
            raise Violation("state", "the section had %s bytes, its end says %d" %
                            (self.section_bytes, message["bytes"]))
        self.bytes += self.section_bytes
        self.sections += 1
        self.section_bytes = None

    def state_end(self, message):
        sent = (self.sections, self.bytes)
        if self.state_ended or (message["sections"], message["bytes"]) != sent:
            raise Violation("state", "%d sections of %d bytes were sent, STATE_END says %d of %d" %
                            (self.sections, self.bytes, message["sections"], message["bytes"]))
        self.state_ended = True

    def offer(self, message, where):
        lazy = self.memory.lazy
        complete = lazy.may_offer() if lazy.begun() else self.final
        if message["attempt"] != self.attempt or not self.state_ended or not complete:
            raise Violation("handover", "OFFER of attempt %d in attempt %d, %s STATE_END, %s the "
                            "final barrier or list" % (message["attempt"], self.attempt,
                                               "after" if self.state_ended else "before",
                                               "after" if complete else "before"))
        self.offered.add(self.attempt)
        if lazy.begun():
            lazy.offered()
        self.offer_to_check = (message, where)
        self.check_offer()

    def on_ready(self, message):
        attempt = message["attempt"]
        if attempt not in self.offered or attempt in self.discarded or self.offer_to_check:
            raise Violation("handover", "READY of attempt %d, which is not on offer" % attempt)
        offered = self.memory.digest
        if self.memory.lazy.begun():
            offered = self.memory.lazy.offered_digest  # Whatever has come since.
        if attempt == self.attempt and message["digest"] != offered:
            raise Violation("digest", "READY's digest is not the memory's", 36)
        self.ready.add(attempt)

    def commit(self, message):
        attempt = message["attempt"]
        if attempt not in self.ready or attempt in self.ended:
            raise Violation("handover", "COMMIT of attempt %d, which is not READY" % attempt)
        self.committed.add(attempt)

    def forward(self):
        if self.attempt not in self.committed or self.attempt in self.ended:
            raise Violation("forward", "FORWARD of a guest that is not handed over")

    def on_started(self, message):
        attempt = message["attempt"]
        if attempt not in self.committed or attempt in self.discarded:
            raise Violation("handover", "STARTED of attempt %d without its COMMIT" % attempt)
        self.started.add(attempt)

    def released(self, message, asked):
        # On a connection opened by ASK it may be the word of an operator, not of the target.
        if message["attempt"] not in (self.committed if asked else self.started):
            raise Violation("handover", "RELEASED before the guest runs at the target")
        lazy = self.memory.lazy
        if lazy.begun() and not (asked or lazy.complete or self.last_answer in (3, 4)):
            raise Violation("lazy", "RELEASED before COMPLETE")
        self.over = "released"

    def abort(self, message, asked):
        attempt = message["attempt"]
        session = message["scope"] == 2
        too_late = attempt in self.committed and not (asked and self.last_answer == 2)
        if too_late or attempt > self.attempt or (attempt in self.ended and not session):
            raise Violation("handover", "ABORT of attempt %d, which is committed, over or to come"
                            % attempt)
        self._end(attempt)
        if session:
            self.over = "aborted"

    def on_discarded(self, message):
        attempt = message["attempt"]
        if attempt in self.started or attempt > self.attempt:
            raise Violation("handover", "DISCARDED of attempt %d, which started or is to come" %
                            attempt)
        self.discarded.add(attempt)
        self._end(attempt)
        if message["scope"] == 2:
            self.over = "discarded"

    def answer(self, message, asked):
        state, attempt = message["state"], message["attempt"]
        self.last_answer = state
        if not asked and (state != 3 or attempt not in self.committed):
            raise Violation("handover", "ANSWER to nothing: neither ASK nor COMMIT asked")
        if state in (2, 3, 4) and (attempt not in self.offered or attempt in self.discarded):
            raise Violation("handover", "the journal knows attempt %d, which was not offered" %
                            attempt)
        if attempt in self.started and state in (1, 2, 5):
            raise Violation("handover", "the journal goes back from STARTING or STARTED")
        if state == 2:
            self.ready.add(attempt)
        elif state in (3, 4):
            if attempt not in self.committed:
                raise Violation("handover", "the guest started without COMMIT")
            self.started.add(attempt)
        elif state == 5:
            self.discarded.add(attempt)
            self._end(attempt)
            self.over = "discarded"
