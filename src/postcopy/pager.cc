#include "postcopy/pager.hpp"

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

namespace migrate::postcopy {
namespace {

/// A page that does not have its hash is demanded anew so many times: a flipped bit on the way is
/// not there again, a broken host or peer is.
constexpr unsigned kAskedAgainMax = 3;
/// And so many pages, each of which costs memory here.
constexpr std::size_t kWrongPagesMax = 4096;

}  // namespace

Status Pager::miss(const PageBitmap& set) {
  Status missed;
  set.for_each_run([&](const RegionId& region, PageRange run) {
    if (!missed) return;
    const auto found = std::find_if(memory_.ranges().begin(), memory_.ranges().end(),
                                    [&](const auto& range) { return range->region.id == region; });
    if (found == memory_.ranges().end() || !(*found)->region.range.contains(run)) {
      missed = make_error(ErrorCode::kProtocol, "pages of region " + to_text(region) +
                                                    ", which is not known, are to come");
      return;
    }
    LazyRange& range = **found;
    const std::uint64_t first = run.first - range.region.range.first;
    if (first % range.granule != 0 || run.count % range.granule != 0) {
      missed = make_error(ErrorCode::kProtocol,
                          page_text(*range.entry, first) + " is to come without its huge page");
      return;
    }
    const MutexLock lock(holes_);
    missed = LazyMemory::drop(range, first, run.count);
    if (!missed) return;
    range.states.once.set(first, run.count);
    range.states.fresh.clear(first, run.count);
    range.states.here.clear(first, run.count);
    std::uint64_t more = 0;
    for (std::uint64_t page = first; page < first + run.count; ++page) {
      if (!range.states.wanted.set(page)) ++more;
    }
    missing_ += more;
  });
  return missed;
}

Status Pager::miss_all() {
  for (const auto& range : memory_.ranges()) {
    MIGRATE_TRY(LazyMemory::drop_fresh(*range));
    range->states.once.set_all();
    range->states.wanted.set_all();
    missing_ += range->pages;
  }
  return {};
}

Status Pager::fault(const PageFault& fault, SteadyClock::time_point now,
                    std::vector<wire::Demand::Pages>& demands) {
  LazyRange* const range = memory_.find(fault.address);
  if (range == nullptr) return {};
  const std::uint64_t page = (fault.address - range->begin) / kPageSize;
  const std::uint64_t first = page / range->granule * range->granule;
  if (!range->states.once.test(first)) return fill_hole(*range, first);
  bool demand = false;
  bool here = false;
  {
    const MutexLock lock(mutex_);
    if (!given_up_.load()) {
      demand = begin_wait(*range, first, fault.thread, now);
      here = range->states.here.test(first);
    }
  }
  if (given_up_.load()) return fill_with_zeros(*range, first);
  // In place, or it was and has been given away since (a balloon): that reads as zero. Where it is
  // there nothing is written, and who waits is woken.
  if (here) return fill_with_zeros(*range, first);
  if (demand) {
    demands.push_back(
        {wire::RegionHandle{range->handle}, first, static_cast<std::uint32_t>(range->granule)});
  }
  return {};
}

Status Pager::fill_hole(LazyRange& range, std::uint64_t first) {
  const MutexLock lock(holes_);
  // Made missing while the fault was on its way: the thread is woken and faults anew.
  if (range.states.once.test(first)) {
    memory_.userfault().wake(range.addresses(first, range.granule));
    return {};
  }
  local_faults_.fetch_add(1, std::memory_order_relaxed);  // Before the thread goes on.
  return fill_with_zeros(range, first);
}

Status Pager::fill_with_zeros(LazyRange& range, std::uint64_t first) {
  const auto filled = memory_.fill_with_zeros(range, first, range.granule);
  if (filled.sys_errno == 0) return {};
  if (filled.sys_errno == EEXIST) {  // Who faulted first has it already.
    memory_.userfault().wake(range.addresses(first, range.granule));
    return {};
  }
  return filling_error(range, first, filled.sys_errno);
}

bool Pager::begin_wait(LazyRange& range, std::uint64_t first, int thread,
                       SteadyClock::time_point now) {
  // Before the sign: it must not stand without a wait.
  if (waits_.size() == waits_.capacity()) waits_.reserve(2 * waits_.size() + 16);
  // First the sign, then the look: who puts it in place does it the other way round.
  const bool waited_for = range.states.demanded.set(first);
  if (range.states.here.test(first)) {
    if (!waited_for) range.states.demanded.clear(first);
    return false;
  }
  for (auto wait = waits_.begin(); thread != 0 && wait != waits_.end(); ++wait) {
    if (wait->thread != thread) continue;
    if (wait->range == &range && wait->first == first) return false;
    // A signal took it away from there; it waits in one place at a time.
    times_.note_stall(thread, now - wait->since);
    wait->thread = 0;
    if (!wait->begins) waits_.erase(wait);
    break;
  }
  waits_.push_back({&range, first, thread, !waited_for, now});
  return !waited_for && range.states.wanted.test(first);
}

void Pager::end_waits(LazyRange& range, std::uint64_t first) {
  const MutexLock lock(mutex_);
  const auto now = SteadyClock::now();
  range.states.demanded.clear(first);
  const auto ended = [&](const Wait& wait) { return wait.range == &range && wait.first == first; };
  for (const Wait& wait : waits_) {
    if (!ended(wait)) continue;
    if (wait.begins) times_.note_fault(now - wait.since);
    times_.note_stall(wait.thread, now - wait.since);
  }
  std::erase_if(waits_, ended);
}

std::vector<wire::Demand::Pages> Pager::waited_for() {
  std::vector<wire::Demand::Pages> pages;
  const MutexLock lock(mutex_);
  for (const Wait& wait : waits_) {
    if (!wait.begins || !wait.range->states.wanted.test(wait.first)) continue;
    pages.push_back({wire::RegionHandle{wait.range->handle}, wait.first,
                     static_cast<std::uint32_t>(wait.range->granule)});
  }
  return pages;
}

std::optional<SteadyClock::time_point> Pager::oldest_wait() {
  const MutexLock lock(mutex_);
  std::optional<SteadyClock::time_point> oldest;
  for (const Wait& wait : waits_) {
    if (!oldest || wait.since < *oldest) oldest = wait.since;
  }
  return oldest;
}

bool Pager::claim(LazyRange& range, std::uint64_t first) {
  if (!range.states.wanted.clear(first)) return false;
  if (range.granule > 1) range.states.wanted.clear(first + 1, range.granule - 1);
  return true;
}

void Pager::unclaim(LazyRange& range, std::uint64_t first, std::uint64_t count) {
  range.states.wanted.set(first, count);
}

bool Pager::put_in_place(LazyRange& range, std::uint64_t first, std::uint64_t count) {
  range.states.fresh.set(first, count);
  range.states.here.set(first, count);
  if (range.states.demanded.any(first, count)) {
    for (std::uint64_t at = first; at < first + count; at += range.granule) {
      if (range.states.demanded.test(at)) end_waits(range, at);
    }
  }
  return missing_.fetch_sub(count) == count;
}

bool Pager::leave_as_zeros(LazyRange& range, std::uint64_t first, std::uint64_t count) {
  // First the sign, then the look: who begins to wait does it the other way round.
  range.states.here.set(first, count);
  if (range.states.demanded.any(first, count)) {
    for (std::uint64_t at = first; at < first + count; at += range.granule) {
      if (!range.states.demanded.test(at)) continue;
      // Without memory for it: it faults anew, which is tried again.
      if (!fill_with_zeros(range, at)) {
        memory_.userfault().wake(range.addresses(at, range.granule));
      }
      end_waits(range, at);
    }
  }
  return missing_.fetch_sub(count) == count;
}

bool Pager::ask_again(const LazyRange& range, std::uint64_t page) {
  const MutexLock lock(mutex_);
  return ++wrong_[range.begin + page * kPageSize] <= kAskedAgainMax &&
         wrong_.size() <= kWrongPagesMax;
}

void Pager::give_up() {
  std::vector<Wait> waits;
  {
    const MutexLock lock(mutex_);
    if (may_wait_.load()) return;
    given_up_.store(true);
    waits.swap(waits_);
  }
  for (const Wait& wait : waits) {
    // Without memory even for that they wait until the registration is taken back.
    (void)fill_with_zeros(*wait.range, wait.first);
  }
}

void Pager::guest_may_wait() {
  const MutexLock lock(mutex_);
  may_wait_.store(true);
}

FaultTimes Pager::times() {
  const MutexLock lock(mutex_);
  return times_;
}

}  // namespace migrate::postcopy
