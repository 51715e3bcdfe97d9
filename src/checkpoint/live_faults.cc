// LiveMemory's side of the guest: writes that wait.
#include <algorithm>
#include <cstring>
#include <mutex>

#include "base/thread_cpu.hpp"
#include "checkpoint/live_memory.hpp"

namespace migrate::checkpoint {

LiveRegion* LiveMemory::region_at(std::uint64_t address) {
  for (LiveRegion& region : regions_) {
    const AddressRange range = region.addresses();
    if (address >= range.begin && address < range.end) return &region;
  }
  return nullptr;
}

void LiveMemory::serve(const PageFault& fault, std::chrono::steady_clock::time_point heard) {
  LiveRegion* const region = region_at(fault.address);
  if (region == nullptr) return;
  const std::uint64_t unit = region->unit_of(fault.address);
  {
    const std::shared_lock<std::shared_mutex> lock(gate_);
    if (!frozen_) return note_write(*region, unit);
  }
  const auto cpu = thread_cpu();
  save_before_write(*region, unit, heard);
  const MutexLock lock(figures_mutex_);
  figures_.cpu += thread_cpu() - cpu;
}

void LiveMemory::note_write(LiveRegion& region, std::uint64_t unit) {
  const UnitRange group =
      region.around(unit, std::max<std::uint64_t>(1, pages_together_ / region.unit_pages));
  Status opened = userfault_->unprotect(region.addresses_of(group));
  // Noted only now: see protect_again().
  region.written.set(group.first, group.count);
  if (!opened) fail(std::move(opened).error());
}

void LiveMemory::save_before_write(LiveRegion& region, std::uint64_t unit,
                                   std::chrono::steady_clock::time_point heard) {
  const UnitRange group =
      region.around(unit, std::max<std::uint64_t>(1, pages_together_ / region.unit_pages));
  PageCopy* copy = nullptr;
  if (region.unclaimed.any(group.first, group.count)) {
    copy = pool_->acquire();
  }
  if (stopped_.load()) {
    // Nothing is saved any more.
    if (copy != nullptr) pool_->give_back(copy);
    (void)userfault_->unprotect(region.addresses_of(group));
    return;
  }
  Claimed claimed;
  std::uint64_t pages = 0;
  if (copy != nullptr) {
    copy->region = region.index;
    copy->first = group.first * region.unit_pages;
    for (std::uint64_t i = 0; i < group.count; ++i) {
      if (!region.unclaimed.clear(group.first + i)) continue;
      claimed.set(i);
      pages += copy_pages(region, group.first + i, *copy);
    }
  }
  Status opened = open_up(region, group, claimed);
  if (pages > 0) {
    const MutexLock lock(figures_mutex_);
    figures_.copied += pages;
    figures_.times.note_fault(std::chrono::steady_clock::now() - heard);
  }
  if (copy != nullptr && pages > 0) pool_->queue(copy);
  if (copy != nullptr && pages == 0) pool_->give_back(copy);
  if (!opened) fail(std::move(opened).error());
}

std::uint64_t LiveMemory::copy_pages(const LiveRegion& region, std::uint64_t unit, PageCopy& copy) {
  std::uint64_t count = 0;
  for (std::uint64_t i = 0; i < region.unit_pages; ++i) {
    const std::uint64_t page = unit * region.unit_pages + i;
    if ((region.pages->words[page / 64] >> (page % 64) & 1) == 0) continue;
    const std::uint64_t at = page - copy.first;
    std::memcpy(copy.bytes + at * kPageSize, region.memory + page * kPageSize, kPageSize);
    copy.pages[at / 64] |= std::uint64_t{1} << (at % 64);
    ++count;
  }
  return count;
}

// What another has claimed stays protected: that one lifts it, and wakes, once it has its copy.
Status LiveMemory::open_up(const LiveRegion& region, UnitRange units, const Claimed& claimed) {
  const auto open = [&](std::uint64_t i) {
    return claimed.test(i) || !region.wanted.test(units.first + i);
  };
  for (std::uint64_t i = 0; i < units.count;) {
    std::uint64_t end = i;
    while (end < units.count && open(end)) ++end;
    if (end > i) {
      MIGRATE_TRY(userfault_->unprotect(region.addresses_of({units.first + i, end - i})));
    }
    i = end + 1;
  }
  return {};
}

}  // namespace migrate::checkpoint
