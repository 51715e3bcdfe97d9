#include "adapters/kvm/tracking.hpp"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace migrate::kvm {
namespace {

/// Why a VM like this cannot have such a tracker; empty when it can.
std::string obstacle(const KvmVm& vm, TrackerKind kind) {
  switch (kind) {
    case TrackerKind::kKvmBitmap:
      return vm.dirty_ring != nullptr ? "it was made with a dirty ring, and has no bitmap" : "";
    case TrackerKind::kKvmRing:
      return vm.dirty_ring == nullptr ? "it was made without a dirty ring" : "";
    case TrackerKind::kWriteProtect:
    case TrackerKind::kContentHash:
      return "";
    case TrackerKind::kProcessWriteProtect:
    case TrackerKind::kSoftDirty:
      return "that is for memory of other processes";
  }
  return "there is no such tracker";
}

std::string possible(const KvmVm& vm, std::span<const TrackerOffer> offers) {
  std::string list;
  for (const TrackerOffer& offer : offers) {
    if (!offer.available || !obstacle(vm, offer.kind).empty()) continue;
    if (!list.empty()) list += ", ";
    list += to_string(offer.kind);
  }
  return list;
}

Status check(const KvmVm& vm, TrackerKind kind, std::span<const TrackerOffer> offers) {
  std::string why = obstacle(vm, kind);
  const auto offer = std::find_if(offers.begin(), offers.end(),
                                  [kind](const TrackerOffer& o) { return o.kind == kind; });
  if (why.empty() && offer != offers.end() && !offer->available) why = offer->detail;
  if (why.empty()) return {};
  return make_error(ErrorCode::kUnsupported, "the writes of this VM cannot be tracked by " +
                                                 std::string(to_string(kind)) + ": " + why)
      .advise("choose one of: " + possible(vm, offers));
}

std::vector<MappedRegion> mapped_regions(const KvmVm& vm) {
  std::vector<MappedRegion> regions;
  for (const KvmMemorySlot& slot : vm.slots) regions.push_back(mapped_region_of(slot));
  return regions;
}

}  // namespace

Result<Tracking> make_tracking(const KvmVm& vm, PageSource& memory,
                               std::optional<TrackerKind> wanted) {
  const std::vector<TrackerOffer> offers = probe_trackers(vm.kvm_fd);
  const TrackerKind kind =
      wanted.value_or(best_tracker(GuestKind::kVm, vm.dirty_ring != nullptr, offers));
  MIGRATE_TRY(check(vm, kind, offers));
  Tracking tracking;
  if (kind == TrackerKind::kKvmRing) {
    MIGRATE_ASSIGN(tracking.tracker, make_kvm_ring_tracker(vm.dirty_ring, vm.slots));
  } else if (kind == TrackerKind::kWriteProtect) {
    MIGRATE_ASSIGN(tracking.tracker, make_write_protect_tracker(mapped_regions(vm)));
  } else if (kind == TrackerKind::kContentHash) {
    ContentHashTracking hashing = make_content_hash_tracking(memory);
    tracking = {std::move(hashing.tracker), std::move(hashing.pages)};
  } else {
    MIGRATE_ASSIGN(tracking.tracker, make_kvm_bitmap_tracker(vm.vm_fd, vm.slots));
  }
  return tracking;
}

}  // namespace migrate::kvm
