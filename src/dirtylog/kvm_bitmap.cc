// The tracker over KVM's dirty bitmaps.
//
// Manual mode: KVM_GET_DIRTY_LOG leaves the bits set; a page's bit is cleared, and the page armed,
// by KVM_CLEAR_DIRTY_LOG shortly before it is read. A bit that was set after the last collect must
// not be cleared: nobody would read that page. So the tracker remembers what it handed out.
// Plain mode: KVM_GET_DIRTY_LOG takes and re-arms; what a peek takes is kept for the next collect.
// Collecting 1 GiB takes 16 us in manual mode and up to 24 ms in plain mode, which is felt in the
// downtime.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dirtylog/kvm_dirty_log.hpp"
#include "migrate/trackers.hpp"

namespace migrate {
namespace {

/// Pages re-armed by one call: 64 MiB. KVM holds its MMU lock for the call, and vCPUs that fault
/// wait for it; re-arming takes 35 to 65 ns a page, so at most about 1 ms.
constexpr std::uint64_t kClearPagesMax = 16384;
static_assert(kClearPagesMax % 64 == 0);

class KvmBitmapTracker final : public DirtyTracker {
 public:
  KvmBitmapTracker(int vm_fd, std::span<const KvmMemorySlot> slots, bool manual)
      : log_(vm_fd), manual_(manual) {
    for (const KvmMemorySlot& slot : slots) {
      const Region region = region_of(slot);
      const std::size_t words = (region.range.count + 63) / 64;
      logs_.push_back({slot, region, std::vector<std::uint64_t>(words), false});
      longest_ = std::max(longest_, words);
    }
    scratch_.resize(longest_);
  }
  ~KvmBitmapTracker() override { (void)stop(); }
  KvmBitmapTracker(const KvmBitmapTracker&) = delete;
  KvmBitmapTracker& operator=(const KvmBitmapTracker&) = delete;

  [[nodiscard]] std::string_view name() const override { return "kvm-bitmap"; }
  [[nodiscard]] DirtyCoverage covers() const override {
    return {.guest_cpu = true, .kvm = true};
  }
  [[nodiscard]] bool rearms_in_collect() const override { return !manual_; }

  Status start() override;
  Status collect(PageBitmap& round_set) override;
  Status rearm(const PageBitmap& set, const RegionId& region, PageRange range) override;
  Status peek(PageBitmap& again) override;
  [[nodiscard]] std::vector<std::uint64_t> written_by_vcpu() const override { return {}; }
  Status stop() override;

 private:
  struct SlotLog {
    KvmMemorySlot slot;
    Region region;
    /// Manual: pages handed out and not re-armed yet. Plain: pages taken and not handed out yet.
    std::vector<std::uint64_t> pending;
    bool logging = false;
  };

  /// The log of one slot, in scratch_.
  Result<std::span<const std::uint64_t>> read(const SlotLog& log);
  /// Plain mode: adds the log of one slot to its pending pages.
  Status drain(SlotLog& log);
  Status rearm_piece(SlotLog& log, const PageBitmap::Segment& set, std::size_t begin,
                     std::size_t end);
  SlotLog* find(const RegionId& region);

  KvmDirtyLog log_;
  const bool manual_;
  std::vector<SlotLog> logs_;
  std::vector<std::uint64_t> scratch_;
  std::size_t longest_ = 0;
};

/// The words of `set` for one log's region; nullptr where `set` lacks the region.
PageBitmap::Segment* segment_of(PageBitmap& set, const Region& region) {
  PageBitmap::Segment* segment = set.find(region.id);
  MIGRATE_CHECK(segment == nullptr || segment->region.range == region.range);
  return segment;
}

void set_all(std::vector<std::uint64_t>& words, std::uint64_t pages) {
  std::fill(words.begin(), words.end(), ~std::uint64_t{0});
  if (pages % 64 != 0) words.back() = (std::uint64_t{1} << (pages % 64)) - 1;
}

Status KvmBitmapTracker::start() {
  const KvmDirtyLog::ManualProtect offered = log_.manual_protect();
  // The setting is the VM's and outlives a tracker, so plain mode has to switch it off.
  if (offered.offered) {
    MIGRATE_TRY(log_.enable_manual_protect(manual_, offered.initially_set));
  }
  const bool all_dirty = manual_ && offered.initially_set;
  for (SlotLog& log : logs_) {
    if (log.logging) {
      return make_error(ErrorCode::kBusy, "the dirty log of this guest is running already");
    }
  }
  for (SlotLog& log : logs_) {
    if (Status started = log_.set_logging(log.slot, true); !started) {
      (void)stop();
      return started;
    }
    log.logging = true;
    // Every page is set and none protected: all may be re-armed without having been collected.
    if (all_dirty) {
      set_all(log.pending, log.region.range.count);
    } else {
      std::fill(log.pending.begin(), log.pending.end(), 0);
    }
  }
  return {};
}

Result<std::span<const std::uint64_t>> KvmBitmapTracker::read(const SlotLog& log) {
  const std::span<std::uint64_t> words{scratch_.data(), log.pending.size()};
  MIGRATE_TRY(log_.get(log.slot, words));
  return std::span<const std::uint64_t>(words);
}

Status KvmBitmapTracker::drain(SlotLog& log) {
  MIGRATE_ASSIGN(const auto words, read(log));
  for (std::size_t i = 0; i < words.size(); ++i) log.pending[i] |= words[i];
  return {};
}

Status KvmBitmapTracker::collect(PageBitmap& round_set) {
  for (SlotLog& log : logs_) {
    PageBitmap::Segment* segment = segment_of(round_set, log.region);
    if (segment == nullptr) continue;
    if (manual_) {
      MIGRATE_ASSIGN(const auto words, read(log));
      std::copy(words.begin(), words.end(), log.pending.begin());
    } else {
      MIGRATE_TRY(drain(log));
    }
  }
  // Handed out only when every log was read, so that a failure loses nothing in plain mode.
  for (SlotLog& log : logs_) {
    PageBitmap::Segment* segment = segment_of(round_set, log.region);
    if (segment == nullptr) continue;
    for (std::size_t i = 0; i < log.pending.size(); ++i) segment->words[i] |= log.pending[i];
    if (!manual_) std::fill(log.pending.begin(), log.pending.end(), 0);
  }
  return {};
}

Status KvmBitmapTracker::rearm(const PageBitmap& set, const RegionId& region, PageRange range) {
  if (!manual_) return {};
  SlotLog* log = find(region);
  const PageBitmap::Segment* segment = set.find(region);
  if (log == nullptr || segment == nullptr) {
    return make_error(ErrorCode::kInvalidArgument,
                      "region " + to_text(region) + " is not one of this guest's memory slots");
  }
  const PageRange whole = log->region.range;
  MIGRATE_CHECK(segment->region.range == whole && whole.contains(range));
  const std::uint64_t first = range.first - whole.first;
  const std::uint64_t end = first + range.count;
  MIGRATE_CHECK(first % 64 == 0 && (end % 64 == 0 || end == whole.count));
  for (std::uint64_t from = first; from < end; from += kClearPagesMax) {
    const std::uint64_t to = std::min(end, from + kClearPagesMax);
    MIGRATE_TRY(rearm_piece(*log, *segment, from / 64, (to + 63) / 64));
  }
  return {};
}

Status KvmBitmapTracker::rearm_piece(SlotLog& log, const PageBitmap::Segment& set,
                                     std::size_t begin, std::size_t end) {
  const auto to_clear = [&](std::size_t word) { return set.words[word] & log.pending[word]; };
  while (begin < end && to_clear(begin) == 0) ++begin;
  while (end > begin && to_clear(end - 1) == 0) --end;
  if (begin == end) return {};
  for (std::size_t word = begin; word < end; ++word) scratch_[word - begin] = to_clear(word);
  const std::uint64_t first = begin * 64;
  const std::uint64_t count = std::min<std::uint64_t>(end * 64, log.region.range.count) - first;
  MIGRATE_TRY(log_.clear(log.slot, first, static_cast<std::uint32_t>(count),
                         {scratch_.data(), end - begin}));
  // Re-armed once a collect: set again from here on, a bit means a newer write.
  for (std::size_t word = begin; word < end; ++word) log.pending[word] &= ~scratch_[word - begin];
  return {};
}

Status KvmBitmapTracker::peek(PageBitmap& again) {
  for (SlotLog& log : logs_) {
    PageBitmap::Segment* segment = segment_of(again, log.region);
    if (segment == nullptr) continue;
    if (!manual_) {
      MIGRATE_TRY(drain(log));
      for (std::size_t i = 0; i < log.pending.size(); ++i) segment->words[i] |= log.pending[i];
      continue;
    }
    MIGRATE_ASSIGN(const auto words, read(log));
    for (std::size_t i = 0; i < words.size(); ++i) segment->words[i] |= words[i] & ~log.pending[i];
  }
  return {};
}

Status KvmBitmapTracker::stop() {
  Status result;
  for (SlotLog& log : logs_) {
    if (!std::exchange(log.logging, false)) continue;
    Status stopped = log_.set_logging(log.slot, false);
    if (!stopped && result) result = std::move(stopped);
  }
  return result;
}

KvmBitmapTracker::SlotLog* KvmBitmapTracker::find(const RegionId& region) {
  for (SlotLog& log : logs_) {
    if (log.region.id == region) return &log;
  }
  return nullptr;
}

Status check_slots(std::span<const KvmMemorySlot> slots) {
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const KvmMemorySlot& slot = slots[i];
    if (slot.bytes == 0 || slot.bytes % kPageSize != 0 ||
        slot.guest_address.value % kPageSize != 0 || slot.host == nullptr) {
      return make_error(ErrorCode::kInvalidArgument, "memory slot " + std::to_string(slot.slot) +
                                                         " is not made of whole, mapped pages");
    }
    for (const KvmMemorySlot& other : slots.first(i)) {
      if (other.slot == slot.slot) {
        return make_error(ErrorCode::kInvalidArgument,
                          "memory slot " + std::to_string(slot.slot) + " is given twice");
      }
    }
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<DirtyTracker>> make_kvm_bitmap_tracker(int vm_fd,
                                                              std::span<const KvmMemorySlot> slots,
                                                              KvmLogMode mode) {
  MIGRATE_TRY(check_slots(slots));
  const bool offered = KvmDirtyLog(vm_fd).manual_protect().offered;
  if (mode == KvmLogMode::kManual && !offered) {
    return make_error(ErrorCode::kUnsupported,
                      "this kernel cannot re-arm its dirty log by hand "
                      "(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)")
        .advise("use the plain log, or a kernel of version 5.2 or newer");
  }
  const bool manual = offered && mode != KvmLogMode::kPlain;
  return std::unique_ptr<DirtyTracker>(std::make_unique<KvmBitmapTracker>(vm_fd, slots, manual));
}

}  // namespace migrate
