#include "postcopy/lazy_memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <utility>

#include "base/guarded.hpp"
#include "memory/uffd_abi.hpp"
#include "wire/limits.hpp"

namespace migrate::postcopy {
namespace {

constexpr std::uint64_t kFeaturesNeeded =
    UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_THREAD_ID;

/// Where a region is and what it is made of.
struct Place {
  AddressRange range;
  MappedBacking backing;
};

Result<Place> place_of(PageSink& pages, const MappedBackings& mapped, const Region& region,
                       const std::string& instead) {
  const std::string what = "region " + to_text(region.id);
  const auto memory = pages.mapped(region.id);
  if (memory.empty()) {
    return make_error(ErrorCode::kUnsupported,
                      what + " cannot be filled lazily: its memory is another process's")
        .advise(instead);
  }
  if (memory.size() != region.range.bytes()) {
    return make_error(ErrorCode::kInternal, what + " has " + std::to_string(region.range.bytes()) +
                                                " bytes where it comes from and " +
                                                std::to_string(memory.size()) + " here")
        .advise("please report it: the guest's host should have refused it");
  }
  const auto begin = reinterpret_cast<std::uint64_t>(memory.data());
  const AddressRange range{begin, begin + memory.size()};
  MIGRATE_ASSIGN(const MappedBacking backing, mapped.of(range, what, instead));
  if (backing.unit_bytes > wire::kGranulePagesMax * kPageSize) {
    return make_error(ErrorCode::kUnsupported,
                      what + " cannot be filled lazily: it is in huge pages of " +
                          std::to_string(backing.unit_bytes >> 20) +
                          " MiB, each of which the guest would wait for as a whole")
        .advise("give the guest huge pages of 2 MiB, or " + instead);
  }
  if (range.begin % backing.unit_bytes != 0 || range.end % backing.unit_bytes != 0) {
    return make_error(ErrorCode::kUnsupported,
                      what + " cannot be filled lazily: it begins or ends within a huge page")
        .advise("give regions whole huge pages, or " + instead);
  }
  return Place{range, backing};
}

/// Whether any page is there, of memory that several may map: of that mincore() asks the file.
bool some_resident(AddressRange range) {
  constexpr std::uint64_t kAskPages = 4096;
  std::array<unsigned char, kAskPages> resident;
  for (std::uint64_t at = range.begin; at < range.end;) {
    const std::uint64_t bytes = std::min(range.end - at, kAskPages * kPageSize);
    if (::mincore(reinterpret_cast<void*>(at), bytes, resident.data()) != 0) return false;
    auto* const end = resident.begin() + bytes / kPageSize;
    if (std::any_of(resident.begin(), end, [](unsigned char one) { return (one & 1) != 0; })) {
      return true;
    }
    at += bytes;
  }
  return false;
}

/// Errno, or 0.
int drop_once(const MappedBacking& backing, AddressRange range) {
  void* const at = reinterpret_cast<void*>(range.begin);
  const std::size_t bytes = range.end - range.begin;
  // Of a shared file the page would stay where the next touch finds it: it has to leave the file.
  if (backing.shared) return ::madvise(at, bytes, MADV_REMOVE) == 0 ? 0 : errno;
  if (::madvise(at, bytes, MADV_DONTNEED) == 0) return 0;
#ifdef MADV_DONTNEED_LOCKED
  if (errno == EINVAL && ::madvise(at, bytes, MADV_DONTNEED_LOCKED) == 0) return 0;
#endif
  return errno;
}

}  // namespace

/// Who fills, for what is said when it cannot be.
struct LazyMemory::Use {
  const char* owner;
  std::string instead;
};

Status LazyMemory::possible(PageSink& pages, std::span<const Region> regions) {
  const UserfaultSupport support = probe_userfault();
  if (!support.available || (support.features & kFeaturesNeeded) != kFeaturesNeeded) {
    // open() says what is wrong, and what to do.
    auto opened = Userfault::open(kFeaturesNeeded, "post-copy");
    if (!opened && !opened.error().remedy.empty()) return opened.error();
    if (!opened) return opened.error().advise("use a newer kernel, or --strategy precopy");
  }
  MIGRATE_ASSIGN(const auto mapped, MappedBackings::read());
  for (const Region& region : regions) {
    MIGRATE_ASSIGN(const Place place,
                   place_of(pages, mapped, region, MappedBackings::kInsteadOfPostcopy));
    static_cast<void>(place);
  }
  return {};
}

Result<std::unique_ptr<LazyMemory>> LazyMemory::create(PageSink& pages, PageLedger& ledger) {
  const Use use{"post-copy", MappedBackings::kInsteadOfPostcopy};
  MIGRATE_ASSIGN(auto userfault, Userfault::open(kFeaturesNeeded, use.owner));
  std::unique_ptr<LazyMemory> made(new LazyMemory(std::move(userfault)));
  MIGRATE_ASSIGN(const auto mapped, MappedBackings::read());
  for (const auto& entry : ledger.entries()) {
    MIGRATE_TRY(made->add(use, pages, mapped, entry->region, entry->handle, entry.get()));
  }
  made->sort();
  return made;
}

Result<std::unique_ptr<LazyMemory>> LazyMemory::create(PageSink& pages,
                                                       std::span<const Region> regions) {
  const Use use{"lazy restore", "restore it without --lazy"};
  MIGRATE_ASSIGN(auto userfault, Userfault::open(kFeaturesNeeded, use.owner));
  std::unique_ptr<LazyMemory> made(new LazyMemory(std::move(userfault)));
  MIGRATE_ASSIGN(const auto mapped, MappedBackings::read());
  for (std::uint32_t i = 0; i < regions.size(); ++i) {
    MIGRATE_TRY(made->add(use, pages, mapped, regions[i], i, nullptr));
  }
  made->sort();
  return made;
}

void LazyMemory::sort() {
  std::sort(ranges_.begin(), ranges_.end(),
            [](const auto& a, const auto& b) { return a->begin < b->begin; });
}

Status LazyMemory::add(const Use& use, PageSink& pages, const MappedBackings& mapped,
                       const Region& region, std::uint32_t handle, PageLedger::Entry* entry) {
  MIGRATE_ASSIGN(const Place place, place_of(pages, mapped, region, use.instead));
  const std::uint64_t count = region.range.count;
  const std::uint64_t granule = place.backing.unit_bytes / kPageSize;
  ranges_.push_back(std::make_unique<LazyRange>(LazyRange{
      region, handle, entry, place.range.begin, count, place.backing, granule, PageStates(count)}));
  if (granule > 1 && zeros_.size() < granule * kPageSize) zeros_.resize(granule * kPageSize);
  return userfault_.add(place.range, Userfault::Use::kMissing);
}

LazyRange* LazyMemory::find(std::uint64_t address) const {
  const auto after = std::upper_bound(
      ranges_.begin(), ranges_.end(), address,
      [](std::uint64_t wanted, const auto& range) { return wanted < range->begin; });
  if (after == ranges_.begin()) return nullptr;
  LazyRange* const range = std::prev(after)->get();
  return address - range->begin < range->pages * kPageSize ? range : nullptr;
}

LazyRange* LazyMemory::find(const PageLedger::Entry* entry) const {
  for (const auto& range : ranges_) {
    if (range->entry == entry) return range.get();
  }
  return nullptr;
}

void LazyMemory::forbid() const {
  for (const auto& range : ranges_) {
    const AddressRange all = range->addresses(0, range->pages);
    (void)::mprotect(reinterpret_cast<void*>(all.begin), all.end - all.begin, PROT_NONE);
  }
}

Status LazyMemory::drop(const LazyRange& range, std::uint64_t first, std::uint64_t count) {
  const AddressRange addresses = range.addresses(first, count);
  // A huge page of a file that the kernel cannot split for the moment is only overwritten with
  // zeros where it is punched, and would be taken for the page that is to come.
  constexpr int kTriesMax = 10;
  for (int tries = 0; tries < kTriesMax; ++tries) {
    const int error = drop_once(range.backing, addresses);
    if (error == EINTR || error == EAGAIN) continue;
    if (error != 0) {
      return make_errno_error(ErrorCode::kUnsupported, error,
                              "memory of region " + to_text(range.region.id) + " cannot be dropped")
          .advise("do not lock or seal the guest's memory, or migrate with --strategy precopy");
    }
    if (!range.backing.shared || range.backing.hugetlb || !some_resident(addresses)) return {};
  }
  return make_error(ErrorCode::kUnsupported, "memory of region " + to_text(range.region.id) +
                                                 " stays where it is although it was dropped")
      .advise("do not pin the guest's memory, or migrate with --strategy precopy");
}

Status LazyMemory::drop_fresh(const LazyRange& range) {
  const int error = drop_once(range.backing, range.addresses(0, range.pages));
  if (error == 0) return {};
  return make_errno_error(ErrorCode::kUnsupported, error,
                          "memory of region " + to_text(range.region.id) + " cannot be dropped")
      .advise("do not lock or seal the guest's memory, or restore it without --lazy");
}

Userfault::Filled LazyMemory::copy(const LazyRange& range, std::uint64_t first, std::uint64_t count,
                                   const std::byte* from) const {
  return userfault_.copy(range.addresses(first, count), from);
}

Userfault::Filled LazyMemory::fill_with_zeros(const LazyRange& range, std::uint64_t first,
                                              std::uint64_t count) const {
  if (range.granule == 1) return userfault_.fill_with_zeros(range.addresses(first, count));
  Userfault::Filled filled;
  for (std::uint64_t done = 0; done < count; done += range.granule) {
    const auto one = copy(range, first + done, range.granule, zeros_.data());
    filled.bytes += one.bytes;
    filled.sys_errno = one.sys_errno;
    if (one.sys_errno != 0) break;
  }
  return filled;
}

Error filling_error(const LazyRange& range, std::uint64_t page, int error) {
  const std::string what =
      "page " + std::to_string(page) + " of region " + to_text(range.region.id);
  if (error == EEXIST) {
    return make_error(ErrorCode::kIntegrity,
                      what + " was in memory before it came: somebody else has written there")
        .advise("let nobody but the guest touch its memory while it is filled lazily");
  }
  if (error == ENOMEM) {
    return make_errno_error(ErrorCode::kNoMemory, error, "there is no memory for " + what)
        .advise(range.backing.hugetlb ? "raise vm.nr_hugepages on this host"
                                      : "free memory on this host");
  }
  return make_errno_error(ErrorCode::kIo, error, what + " cannot be put in place");
}

}  // namespace migrate::postcopy
