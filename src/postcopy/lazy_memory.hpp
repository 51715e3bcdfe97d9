// LazyMemory: the target's regions as memory of this process that a userfaultfd watches: how it is
// dropped and filled by what backs it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "memory/page_ledger.hpp"
#include "memory/userfault.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"
#include "postcopy/mapped_backing.hpp"
#include "postcopy/page_states.hpp"

namespace migrate::postcopy {

/// A region.
struct LazyRange {
  Region region;
  std::uint32_t handle;
  PageLedger::Entry* entry;  ///< nullptr without a ledger.
  std::uint64_t begin;       ///< Its address in this process.
  std::uint64_t pages;
  MappedBacking backing;
  std::uint64_t granule;  ///< Pages that come and go together; 1, or a huge page.
  PageStates states;

  [[nodiscard]] AddressRange addresses(std::uint64_t first, std::uint64_t count) const {
    return {begin + first * kPageSize, begin + (first + count) * kPageSize};
  }
};

/// Any thread, but create() and drop().
class LazyMemory {
 public:
  /// See LazyTarget.
  static Status possible(PageSink& pages, std::span<const Region> regions);
  static Result<std::unique_ptr<LazyMemory>> create(PageSink& pages, PageLedger& ledger);
  /// Of a checkpoint's image: without a ledger, and a region's handle is its index. What it takes
  /// does not depend on how large they are.
  static Result<std::unique_ptr<LazyMemory>> create(PageSink& pages,
                                                    std::span<const Region> regions);

  [[nodiscard]] std::span<const std::unique_ptr<LazyRange>> ranges() const { return ranges_; }
  /// nullptr for what is not registered.
  [[nodiscard]] LazyRange* find(std::uint64_t address) const;
  [[nodiscard]] LazyRange* find(const PageLedger::Entry* entry) const;
  [[nodiscard]] const Userfault& userfault() const { return userfault_; }

  /// Nobody reads or writes any of it any more: who waits for a page gets an error instead of it,
  /// once the registration is taken back (EFAULT in a system call, which KVM_RUN and a disk's write
  /// are; a signal elsewhere).
  void forbid() const;
  /// Takes whole granules out of memory, so that touching them is a fault.
  static Status drop(const LazyRange& range, std::uint64_t first, std::uint64_t count);
  /// All of memory that nobody has used yet: what the kernel may have filled it with ahead of time.
  static Status drop_fresh(const LazyRange& range);
  /// Both wake who waits for what they fill; see Userfault. Whole granules.
  [[nodiscard]] Userfault::Filled copy(const LazyRange& range, std::uint64_t first,
                                       std::uint64_t count, const std::byte* from) const;
  [[nodiscard]] Userfault::Filled fill_with_zeros(const LazyRange& range, std::uint64_t first,
                                                  std::uint64_t count) const;

 private:
  explicit LazyMemory(Userfault userfault) : userfault_(std::move(userfault)) {}
  struct Use;
  Status add(const Use& use, PageSink& pages, const MappedBackings& mapped, const Region& region,
             std::uint32_t handle, PageLedger::Entry* entry);
  void sort();

  Userfault userfault_;
  std::vector<std::unique_ptr<LazyRange>> ranges_;  // In order of addresses.
  std::vector<std::byte> zeros_;  // The largest granule's, where one is not a page.
};

/// What a failure to fill memory is, in words; `error` an errno.
[[nodiscard]] Error filling_error(const LazyRange& range, std::uint64_t page, int error);

}  // namespace migrate::postcopy
