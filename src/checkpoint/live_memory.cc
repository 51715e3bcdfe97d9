#include "checkpoint/live_memory.hpp"

#include <algorithm>
#include <utility>

#include "memory/uffd_abi.hpp"
#include "postcopy/mapped_backing.hpp"

namespace migrate::checkpoint {
namespace {

constexpr std::string_view kOwner = "a live checkpoint";
constexpr const char* kRemedy = "take the checkpoint without --live";

/// Protected by one call while the guest runs: 0.2 ms, for which its faults wait. A multiple of a
/// transparent huge page, which would be split at a boundary within.
constexpr std::uint64_t kArmBytes = std::uint64_t{4} << 20;
/// Protecting so many pages more costs no more than a call of its own.
constexpr std::uint64_t kJoinedUnits = 32;

Error cannot(Error error) {
  if (error.code == ErrorCode::kBusy) {
    return std::move(error).advise(std::string(kRemedy) +
                                   ", or track this guest's writes by KVM (--tracker log or ring)");
  }
  return std::move(error).advise(kRemedy);
}

AddressRange addresses_of(const MappedRegion& mapped) {
  const auto begin = reinterpret_cast<std::uint64_t>(mapped.address);
  return {begin, begin + mapped.region.range.bytes()};
}

/// Pages that are protected together: one, but for hugetlb.
Result<std::vector<std::uint64_t>> unit_pages_of(std::span<const MappedRegion> regions,
                                                 const Userfault& userfault) {
  std::vector<std::uint64_t> units(regions.size(), 1);
  std::optional<postcopy::MappedBackings> backings;
  for (std::size_t i = 0; i < regions.size(); ++i) {
    const AddressRange range = addresses_of(regions[i]);
    if (!userfault.hugetlb(range)) continue;
    const std::string what = "region " + to_text(regions[i].region.id);
    if (!backings) {
      MIGRATE_ASSIGN(backings, postcopy::MappedBackings::read());
    }
    const auto backing = backings->of(range, what);
    units[i] = backing ? backing->unit_bytes / kPageSize : 0;
    if (units[i] == 0 || units[i] > PageCopy::kPagesMax ||
        regions[i].region.range.count % units[i] != 0) {
      return make_error(ErrorCode::kUnsupported,
                        what +
                            " cannot be saved while the guest runs: its memory is not in pages "
                            "of 2 MiB at most, whole ones and all of one size")
          .advise(kRemedy);
    }
  }
  return units;
}

/// Calls `take` with runs of set bits, those joined that are not further apart than `gap`.
template <typename Take>
Status for_joined_runs(std::span<const UnitRange> runs, std::uint64_t gap, Take&& take) {
  for (std::size_t i = 0; i < runs.size();) {
    UnitRange joined = runs[i];
    for (++i; i < runs.size() && runs[i].first <= joined.end() + gap; ++i) {
      joined.count = std::max(joined.end(), runs[i].end()) - joined.first;
    }
    MIGRATE_TRY(take(joined));
  }
  return {};
}

std::vector<UnitRange> unit_runs(const LiveRegion& region, const PageBitmap::Segment& pages) {
  std::vector<UnitRange> runs;
  const GuestPage end = region.region.range.end();
  for (PageRange run = next_run(pages, region.region.range.first, end); !run.empty();
       run = next_run(pages, run.end(), end)) {
    const UnitRange units = region.units_of(run);
    if (!runs.empty() && units.first <= runs.back().end()) {
      runs.back().count = units.end() - runs.back().first;
    } else {
      runs.push_back(units);
    }
  }
  return runs;
}

}  // namespace

Result<std::unique_ptr<LiveMemory>> LiveMemory::create(std::span<const MappedRegion> regions,
                                                       const LiveOptions& options) {
  MIGRATE_CHECK(options.pages_together > 0 &&
                options.pages_together <= LiveRegion::kUnitsTogetherMax);
  auto userfault = Userfault::open(abi::kUffdSnapshot, kOwner);
  if (!userfault) return cannot(std::move(userfault).error());
  for (const MappedRegion& mapped : regions) {
    Status added = userfault->add(addresses_of(mapped), Userfault::Use::kWriteProtect);
    if (!added) return cannot(std::move(added).error());
  }
  MIGRATE_ASSIGN(const auto units, unit_pages_of(regions, *userfault));
  std::unique_ptr<LiveMemory> made(new LiveMemory(regions, units, options, *std::move(userfault)));
  MIGRATE_TRY(made->start(options));
  return made;
}

LiveMemory::LiveMemory(std::span<const MappedRegion> regions,
                       std::span<const std::uint64_t> unit_pages, const LiveOptions& options,
                       Userfault userfault)
    : pages_together_(options.pages_together), userfault_(std::move(userfault)) {
  std::vector<Region> all;
  for (const MappedRegion& mapped : regions) all.push_back(mapped.region);
  pages_ = PageBitmap(all);
  chunks_before_.push_back(0);
  for (std::size_t i = 0; i < regions.size(); ++i) {
    LiveRegion& region = regions_.emplace_back(static_cast<std::uint16_t>(i), regions[i].region,
                                               regions[i].address, unit_pages[i]);
    region.pages = pages_.find(region.region.id);
    const std::uint64_t size = chunk_units(region);
    chunks_before_.push_back(chunks_before_.back() + (region.units + size - 1) / size);
    copy_pages_ = std::max(copy_pages_, std::max(pages_together_, region.unit_pages));
  }
}

Status LiveMemory::start(const LiveOptions& options) {
  const std::uint64_t all = (pages_.capacity() + copy_pages_ - 1) / copy_pages_;
  const std::uint64_t most = options.copies_bytes / (copy_pages_ * kPageSize);
  MIGRATE_ASSIGN(pool_,
                 CopyPool::create(copy_pages_, std::max<std::uint64_t>(1, std::min(all, most))));
  const auto serve_all = [this](std::span<const PageFault> faults) {
    const auto heard = std::chrono::steady_clock::now();
    for (const PageFault& fault : faults) serve(fault, heard);
    return true;
  };
  MIGRATE_ASSIGN(faults_, postcopy::FaultThreads::start(*userfault_, serve_all,
                                                        [](std::span<const PageFault>) {}));
  return {};
}

LiveMemory::~LiveMemory() { close(); }

Status LiveMemory::protect(const LiveRegion& region, UnitRange units) {
  const AddressRange all = region.addresses_of(units);
  const std::uint64_t step = std::max(kArmBytes, region.unit_bytes());
  for (std::uint64_t at = all.begin; at < all.end;) {
    const std::uint64_t end = std::min(all.end, at / step * step + step);
    MIGRATE_TRY(userfault_->protect({at, end}));
    at = end;
  }
  return {};
}

void LiveMemory::want(LiveRegion& region) {
  region.wanted.clear(0, region.units);
  region.unclaimed.clear(0, region.units);
  for (const UnitRange run : unit_runs(region, *region.pages)) {
    region.wanted.set(run.first, run.count);
    region.unclaimed.set(run.first, run.count);
  }
}

Status LiveMemory::arm(const PageBitmap& pages) {
  pages_.merge(pages);
  for (LiveRegion& region : regions_) {
    want(region);
    const std::uint64_t gap = region.unit_pages == 1 ? kJoinedUnits : 0;
    MIGRATE_TRY(for_joined_runs(unit_runs(region, *region.pages), gap,
                                [&](UnitRange run) { return protect(region, run); }));
    MIGRATE_TRY(failure());
  }
  return {};
}

void LiveMemory::leave_out(const PageBitmap& holes) {
  pages_.subtract(holes);
  for (LiveRegion& region : regions_) want(region);
}

// A fault thread notes a page after it has lifted the protection. What it has lifted but not noted
// is found the next time, at the latest by freeze(), which waits for it.
Result<std::uint64_t> LiveMemory::protect_again(LiveRegion& region, const PageBitmap* more) {
  std::vector<UnitRange> runs;
  const auto add = [&](UnitRange units) {
    pages_.set(region.region.id, region.pages_of(units));
    region.wanted.set(units.first, units.count);
    region.unclaimed.set(units.first, units.count);
    runs.push_back(units);
  };
  std::uint64_t count = 0;
  for (std::uint64_t word = 0; word < (region.units + 63) / 64; ++word) {
    if (region.written.word(word) == 0) continue;
    std::uint64_t bits = region.written.take_word(word);
    count += static_cast<std::uint64_t>(std::popcount(bits));
    while (bits != 0) {
      const auto first = static_cast<unsigned>(std::countr_zero(bits));
      const auto length = static_cast<unsigned>(std::countr_one(bits >> first));
      add({word * 64 + first, length});
      bits &= length == 64 ? 0 : ~(((std::uint64_t{1} << length) - 1) << first);
    }
  }
  if (const auto* pages = more == nullptr ? nullptr : more->find(region.region.id)) {
    for (const UnitRange units : unit_runs(region, *pages)) add(units);
    std::sort(runs.begin(), runs.end(), [](UnitRange a, UnitRange b) { return a.first < b.first; });
  }
  const std::uint64_t gap = region.unit_pages == 1 ? kJoinedUnits : 0;
  MIGRATE_TRY(for_joined_runs(runs, gap, [&](UnitRange run) { return protect(region, run); }));
  return count * region.unit_pages;
}

Result<std::uint64_t> LiveMemory::arm_written() {
  std::uint64_t count = 0;
  for (LiveRegion& region : regions_) {
    MIGRATE_ASSIGN(const std::uint64_t written, protect_again(region, nullptr));
    count += written;
  }
  MIGRATE_TRY(failure());
  return count;
}

Status LiveMemory::freeze(const PageBitmap& more) {
  const std::unique_lock<std::shared_mutex> lock(gate_);
  for (LiveRegion& region : regions_) MIGRATE_TRY(protect_again(region, &more));
  frozen_ = true;
  return failure();
}

void LiveMemory::fail(Error error) noexcept {
  {
    const MutexLock lock(failure_mutex_);
    if (!failure_) failure_ = std::move(error);
  }
  stopped_.store(true);
  pool_->close();
}

Status LiveMemory::failure() const {
  const MutexLock lock(failure_mutex_);
  return failure_ ? Status(*failure_) : Status();
}

void LiveMemory::close() {
  if (!userfault_) return;
  stopped_.store(true);
  if (pool_ != nullptr) pool_->close();
  faults_.reset();
  // Lifts all protection and wakes whoever still waits.
  userfault_.reset();
}

LiveMemory::Figures LiveMemory::figures() const {
  const MutexLock lock(figures_mutex_);
  return figures_;
}

}  // namespace migrate::checkpoint
