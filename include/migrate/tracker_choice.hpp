// Which dirty trackers this host offers, and which is best.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// The trackers, best first for a VM.
enum class TrackerKind : std::uint8_t {
  kKvmBitmap = 1,            ///< make_kvm_bitmap_tracker
  kKvmRing = 2,              ///< make_kvm_ring_tracker
  kWriteProtect = 3,         ///< make_write_protect_tracker
  kProcessWriteProtect = 4,  ///< make_process_write_protect_tracker
  kSoftDirty = 5,            ///< make_soft_dirty_tracker
  kContentHash = 6,          ///< make_content_hash_tracking
};
/// As DirtyTracker::name(): "kvm-bitmap", "kvm-ring", "write-protect", "process-write-protect",
/// "soft-dirty", "content-hash".
[[nodiscard]] std::string_view to_string(TrackerKind kind);

/// What this host says to one of them.
struct TrackerOffer {
  TrackerKind kind = TrackerKind::kContentHash;
  bool available = false;
  std::string detail;  ///< What is special about it here, or why it is not available.
  std::string remedy;  ///< What would make it available, or better; may be empty.
};

/// Asks the kernel, KVM by its capabilities and the rest by trying on a page of this process's
/// memory. `kvm_fd`: /dev/kvm, or -1 for none. In order of TrackerKind. Any thread.
[[nodiscard]] std::vector<TrackerOffer> probe_trackers(int kvm_fd);

/// The best of `offers` that can track such a guest; there is always one, the content hash. A VM
/// that was made with a dirty ring has no bitmap (`has_ring`), and one without has no ring.
[[nodiscard]] TrackerKind best_tracker(GuestKind guest, bool has_ring,
                                       std::span<const TrackerOffer> offers);

}  // namespace migrate
