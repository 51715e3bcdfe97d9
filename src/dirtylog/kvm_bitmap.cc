// The tracker over KVM's dirty bitmaps.
//
// Manual mode: KVM_GET_DIRTY_LOG leaves the bits set; a page's bit is cleared, and the page armed,
// by KVM_CLEAR_DIRTY_LOG shortly before it is read. A bit that was set after the last collect must
// not be cleared: nobody would read that page. So the tracker remembers what it handed out, by
// having the kernel write the log to where that is kept; from there it is merged once.
// Plain mode: KVM_GET_DIRTY_LOG takes and re-arms; what a peek takes is kept for the next collect.
// Collecting 1 GiB takes a few us in manual mode and up to 24 ms in plain mode, which is felt in
// the downtime.
//
// A read that fails may have written a part of the log. In manual mode KVM still has all of it, and
// nothing may be re-armed before the next collect; in plain mode it may be gone, and the whole slot
// counts as dirty.
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
    std::vector<Region> regions;
    std::size_t longest = 0;
    for (const KvmMemorySlot& slot : slots) {
      logs_.push_back({slot, false});
      regions.push_back(region_of(slot));
      longest = std::max<std::size_t>(longest, (regions.back().range.count + 63) / 64);
    }
    pending_ = PageBitmap(regions);
    scratch_.resize(longest);
  }
  ~KvmBitmapTracker() override { (void)stop(); }
  KvmBitmapTracker(const KvmBitmapTracker&) = delete;
  KvmBitmapTracker& operator=(const KvmBitmapTracker&) = delete;

  [[nodiscard]] std::string_view name() const override { return "kvm-bitmap"; }
  [[nodiscard]] DirtyCoverage covers() const override { return {.guest_cpu = true, .kvm = true}; }
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
    bool logging = false;
  };
  using Segment = PageBitmap::Segment;

  /// Of the log at the same place in logs_.
  Segment& pending(std::size_t i) { return pending_.segments()[i]; }
  [[nodiscard]] Status check_started() const;
  Status read_all(const PageBitmap& wanted);
  /// Plain mode: adds the log of one slot to its pending pages.
  Status drain(std::size_t i);
  Status rearm_piece(const KvmMemorySlot& slot, Segment& handed_out, const Segment& set,
                     std::size_t begin, std::size_t end);

  KvmDirtyLog log_;
  const bool manual_;
  std::vector<SlotLog> logs_;
  /// Manual: pages handed out and not re-armed yet. Plain: pages taken and not handed out yet.
  /// Segment i is that of logs_[i].
  PageBitmap pending_;
  std::vector<std::uint64_t> scratch_;  ///< As long as the longest log.
};

/// The segment of `set` for the same region; nullptr where `set` lacks it.
template <typename Set>
auto* segment_of(Set& set, const Region& region) {
  auto* segment = set.find(region.id);
  MIGRATE_CHECK(segment == nullptr || segment->region.range == region.range);
  return segment;
}

Status KvmBitmapTracker::start() {
  for (const SlotLog& log : logs_) {
    if (log.logging) {
      return make_error(ErrorCode::kBusy, "the dirty log of this guest is running already");
    }
  }
  // Before anything of the VM is changed.
  MIGRATE_TRY(log_.check_has_bitmaps());
  const KvmDirtyLog::ManualProtect offered = log_.manual_protect();
  // The setting is the VM's and outlives a tracker, so plain mode has to switch it off.
  if (offered.offered) {
    MIGRATE_TRY(log_.enable_manual_protect(manual_, offered.initially_set));
  }
  for (SlotLog& log : logs_) {
    if (Status started = log_.set_logging(log.slot, true); !started) {
      (void)stop();
      return started;
    }
    log.logging = true;
  }
  // Initially set, no page is protected: all may be re-armed without having been collected.
  if (manual_ && offered.initially_set) {
    pending_.set_all();
  } else {
    pending_.clear_all();
  }
  return {};
}

Status KvmBitmapTracker::drain(std::size_t i) {
  std::vector<std::uint64_t>& kept = pending(i).words;
  const std::span<std::uint64_t> words{scratch_.data(), kept.size()};
  if (Status got = log_.get(logs_[i].slot, words); !got) {
    const Region& region = pending(i).region;
    pending_.set(region.id, region.range);
    return got;
  }
  for (std::size_t w = 0; w < words.size(); ++w) kept[w] |= words[w];
  return {};
}

Status KvmBitmapTracker::read_all(const PageBitmap& wanted) {
  for (std::size_t i = 0; i < logs_.size(); ++i) {
    if (segment_of(wanted, pending(i).region) == nullptr) continue;
    if (!manual_) {
      MIGRATE_TRY(drain(i));
    } else {
      MIGRATE_TRY(log_.get(logs_[i].slot, pending(i).words));
    }
  }
  return {};
}

Status KvmBitmapTracker::collect(PageBitmap& round_set) {
  MIGRATE_TRY(check_started());
  if (Status read = read_all(round_set); !read) {
    if (manual_) pending_.clear_all();
    return read;
  }
  // Handed out only when every log was read, so that a failure loses nothing in plain mode.
  if (manual_) {
    round_set.merge(pending_);
  } else {
    pending_.hand_over(round_set);
  }
  return {};
}

Status KvmBitmapTracker::rearm(const PageBitmap& set, const RegionId& region, PageRange range) {
  if (!manual_) return {};
  Segment* handed_out = pending_.find(region);
  const Segment* segment = set.find(region);
  if (handed_out == nullptr || segment == nullptr) {
    return make_error(ErrorCode::kInvalidArgument,
                      "region " + to_text(region) + " is not one of this guest's memory slots");
  }
  const auto index = static_cast<std::size_t>(handed_out - pending_.segments().data());
  const KvmMemorySlot& slot = logs_[index].slot;
  const PageRange whole = handed_out->region.range;
  MIGRATE_CHECK(segment->region.range == whole && whole.contains(range));
  const std::uint64_t first = range.first - whole.first;
  const std::uint64_t end = first + range.count;
  MIGRATE_CHECK(first % 64 == 0 && (end % 64 == 0 || end == whole.count));
  for (std::uint64_t from = first; from < end; from += kClearPagesMax) {
    const std::uint64_t to = std::min(end, from + kClearPagesMax);
    MIGRATE_TRY(rearm_piece(slot, *handed_out, *segment, from / 64, (to + 63) / 64));
  }
  return {};
}

Status KvmBitmapTracker::rearm_piece(const KvmMemorySlot& slot, Segment& handed_out,
                                     const Segment& set, std::size_t begin, std::size_t end) {
  const auto to_clear = [&](std::size_t word) { return set.words[word] & handed_out.words[word]; };
  while (begin < end && to_clear(begin) == 0) ++begin;
  while (end > begin && to_clear(end - 1) == 0) --end;
  if (begin == end) return {};
  for (std::size_t word = begin; word < end; ++word) scratch_[word - begin] = to_clear(word);
  const std::uint64_t first = begin * 64;
  const std::uint64_t count = std::min(end * 64, handed_out.region.range.count) - first;
  MIGRATE_TRY(
      log_.clear(slot, first, static_cast<std::uint32_t>(count), {scratch_.data(), end - begin}));
  // Re-armed once a collect: set again from here on, a bit means a newer write.
  for (std::size_t word = begin; word < end; ++word) {
    handed_out.words[word] &= ~scratch_[word - begin];
  }
  return {};
}

Status KvmBitmapTracker::check_started() const {
  if (!logs_.empty() && logs_.front().logging) return {};
  return make_error(ErrorCode::kInvalidArgument, "collect from a tracker that was not started");
}

Status KvmBitmapTracker::peek(PageBitmap& again) {
  MIGRATE_TRY(check_started());
  if (!manual_) {
    MIGRATE_TRY(read_all(again));
    again.merge(pending_);
    return {};
  }
  for (std::size_t i = 0; i < logs_.size(); ++i) {
    Segment* segment = segment_of(again, pending(i).region);
    if (segment == nullptr) continue;
    const std::vector<std::uint64_t>& handed_out = pending(i).words;
    const std::span<std::uint64_t> words{scratch_.data(), handed_out.size()};
    MIGRATE_TRY(log_.get(logs_[i].slot, words));
    for (std::size_t w = 0; w < words.size(); ++w) segment->words[w] |= words[w] & ~handed_out[w];
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
