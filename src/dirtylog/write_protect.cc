// The tracker over write-protected mappings of this process. A fault on a protected page removes
// the protection and nothing else (WP_ASYNC): nobody has to answer it. PAGEMAP_SCAN tells which
// pages lost theirs and gives it back by the same call, so collect() re-arms.
//
// The protection belongs to the mapping: what is written to the memory without going through it
// (another mapping, write(2) to its file, pages pinned before they were protected) is not seen.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "memory/pagemap.hpp"
#include "memory/uffd_abi.hpp"
#include "memory/userfault.hpp"
#include "migrate/trackers.hpp"

namespace migrate {
namespace {

constexpr std::string_view kOwner = "write-protect tracking";

AddressRange addresses_of(const MappedRegion& mapped) {
  const auto begin = reinterpret_cast<std::uint64_t>(mapped.address);
  return {begin, begin + mapped.region.range.bytes()};
}

PageBitmap empty_set(std::span<const MappedRegion> regions) {
  std::vector<Region> all;
  for (const MappedRegion& mapped : regions) all.push_back(mapped.region);
  return PageBitmap(all);
}

class WriteProtectTracker final : public DirtyTracker {
 public:
  explicit WriteProtectTracker(std::span<const MappedRegion> regions)
      : pending_(empty_set(regions)) {
    for (const MappedRegion& mapped : regions) {
      regions_.push_back({mapped.region, addresses_of(mapped), false});
    }
  }
  ~WriteProtectTracker() override { (void)stop(); }
  WriteProtectTracker(const WriteProtectTracker&) = delete;
  WriteProtectTracker& operator=(const WriteProtectTracker&) = delete;

  [[nodiscard]] std::string_view name() const override { return "write-protect"; }
  [[nodiscard]] DirtyCoverage covers() const override {
    return {.guest_cpu = true, .kvm = true, .kernel = true, .vmm = true};
  }
  [[nodiscard]] bool rearms_in_collect() const override { return true; }
  [[nodiscard]] std::vector<std::uint64_t> written_by_vcpu() const override { return {}; }

  Status start() override;
  Status collect(PageBitmap& round_set) override;
  Status rearm(const PageBitmap&, const RegionId&, PageRange) override { return {}; }
  Status peek(PageBitmap& again) override;
  Status stop() override;

 private:
  struct Tracked {
    Region region;
    AddressRange addresses;
    bool registered = false;
  };

  /// Registers and protects a region; from then on its writes are seen.
  Status arm(Tracked& tracked);
  /// Adds what was written to a region to pending_, and protects it again.
  Status take(Tracked& tracked);

  std::vector<Tracked> regions_;
  std::optional<Pagemap> pagemap_;
  std::optional<Userfault> userfault_;  ///< While tracking.
  PageBitmap pending_;                  ///< Taken from the kernel and not handed out yet.
};

PageRange pages_of(const Region& region, AddressRange whole, AddressRange part) {
  return {region.range.first + (part.begin - whole.begin) / kPageSize,
          (part.end - part.begin) / kPageSize};
}

PageBitmap::Segment* segment_of(PageBitmap& set, const Region& region) {
  PageBitmap::Segment* segment = set.find(region.id);
  MIGRATE_CHECK(segment == nullptr || segment->region.range == region.range);
  return segment;
}

Status WriteProtectTracker::start() {
  if (userfault_) {
    return make_error(ErrorCode::kBusy, "the writes to this memory are being tracked already");
  }
  MIGRATE_ASSIGN(pagemap_, Pagemap::open());
  auto userfault = Userfault::open(abi::kUffdWriteTracking, kOwner);
  if (!userfault) return std::move(userfault).error();
  userfault_.emplace(*std::move(userfault));
  pending_.clear_all();
  for (Tracked& tracked : regions_) {
    if (Status armed = arm(tracked); !armed) {
      (void)stop();
      return armed;
    }
  }
  return {};
}

Status WriteProtectTracker::arm(Tracked& tracked) {
  MIGRATE_TRY(userfault_->add(tracked.addresses, Userfault::Use::kWriteProtect));
  tracked.registered = true;
  MIGRATE_ASSIGN(const ScanOutcome outcome, pagemap_->protect(tracked.addresses, &*userfault_));
  if (outcome == ScanOutcome::kDone) return {};
  return make_error(ErrorCode::kNotFound,
                    "region " + to_text(tracked.region.id) + " was mapped anew while it was armed");
}

Status WriteProtectTracker::take(Tracked& tracked) {
  const Region& region = tracked.region;
  if (tracked.registered) {
    MIGRATE_ASSIGN(const ScanOutcome outcome,
                   pagemap_->take_written(
                       tracked.addresses,
                       [&](AddressRange written) {
                         pending_.set(region.id, pages_of(region, tracked.addresses, written));
                       },
                       &*userfault_));
    if (outcome == ScanOutcome::kDone && is_mapped(tracked.addresses)) return {};
    // Mapped anew, some of it at least: the kernel has dropped the registration with the mapping.
    tracked.registered = false;
    MIGRATE_TRY(userfault_->remove(tracked.addresses));
  }
  pending_.set(region.id, region.range);
  if (Status armed = arm(tracked); !armed) {
    return std::move(armed.error())
        .advise("keep the memory of region " + to_text(region.id) +
                " mapped until its tracker has stopped");
  }
  return {};
}

Status WriteProtectTracker::collect(PageBitmap& round_set) {
  if (!userfault_) {
    return make_error(ErrorCode::kInvalidArgument, "collect from a tracker that was not started");
  }
  for (Tracked& tracked : regions_) {
    if (segment_of(round_set, tracked.region) != nullptr) MIGRATE_TRY(take(tracked));
  }
  // Handed out only when every region was taken: a failure before loses nothing.
  pending_.hand_over(round_set);
  return {};
}

Status WriteProtectTracker::peek(PageBitmap& again) {
  if (!userfault_) return {};
  for (const Tracked& tracked : regions_) {
    const Region& region = tracked.region;
    if (segment_of(again, region) == nullptr) continue;
    MIGRATE_ASSIGN(const ScanOutcome outcome,
                   pagemap_->look(
                       tracked.addresses,
                       [&](AddressRange written) {
                         again.set(region.id, pages_of(region, tracked.addresses, written));
                       },
                       &*userfault_));
    if (outcome != ScanOutcome::kDone) again.set(region.id, region.range);
  }
  again.merge(pending_);
  return {};
}

Status WriteProtectTracker::stop() {
  if (!userfault_) return {};
  Status result;
  for (Tracked& tracked : regions_) {
    if (!std::exchange(tracked.registered, false)) continue;
    Status removed = userfault_->remove(tracked.addresses);
    if (!removed && result) result = std::move(removed);
  }
  userfault_.reset();
  pagemap_.reset();
  return result;
}

bool overlap(AddressRange a, AddressRange b) { return a.begin < b.end && b.begin < a.end; }

Status check_regions(std::span<const MappedRegion> regions) {
  const auto refuse = [](const MappedRegion& mapped, const char* why) {
    return make_error(ErrorCode::kInvalidArgument,
                      "region " + to_text(mapped.region.id) + " cannot be tracked: " + why);
  };
  for (std::size_t i = 0; i < regions.size(); ++i) {
    const MappedRegion& mapped = regions[i];
    const auto address = reinterpret_cast<std::uint64_t>(mapped.address);
    if (address == 0) return refuse(mapped, "it is not mapped in this process");
    if (address % kPageSize != 0) return refuse(mapped, "its address is not that of a page");
    if (mapped.region.range.empty()) return refuse(mapped, "it is empty");
    if (mapped.region.range.count > (~std::uint64_t{0} - address) / kPageSize) {
      return refuse(mapped, "it ends beyond the last address");
    }
    for (const MappedRegion& other : regions.first(i)) {
      if (other.region.id == mapped.region.id) return refuse(mapped, "it is given twice");
      if (overlap(addresses_of(other), addresses_of(mapped))) {
        return refuse(mapped, "its mapping overlaps another region's");
      }
    }
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<DirtyTracker>> make_write_protect_tracker(
    std::span<const MappedRegion> regions) {
  MIGRATE_TRY(check_regions(regions));
  return std::unique_ptr<DirtyTracker>(std::make_unique<WriteProtectTracker>(regions));
}

}  // namespace migrate
