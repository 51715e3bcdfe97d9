// Which trackers this host offers, found by asking the kernel, and which is best: a table.
#include "migrate/tracker_choice.hpp"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "dirtylog/kvm_dirty_log.hpp"
#include "dirtylog/soft_dirty.hpp"
#include "memory/pagemap.hpp"
#include "memory/userfault.hpp"
#include "migrate/kvm_dirty_ring.hpp"

namespace migrate {
namespace {

constexpr std::size_t kKinds = 6;

constexpr std::array<std::pair<TrackerKind, std::string_view>, kKinds> kNames = {{
    {TrackerKind::kKvmBitmap, "kvm-bitmap"},
    {TrackerKind::kKvmRing, "kvm-ring"},
    {TrackerKind::kWriteProtect, "write-protect"},
    {TrackerKind::kProcessWriteProtect, "process-write-protect"},
    {TrackerKind::kSoftDirty, "soft-dirty"},
    {TrackerKind::kContentHash, "content-hash"},
}};

TrackerOffer offered(TrackerKind kind, std::string detail, std::string remedy = {}) {
  return {kind, true, std::move(detail), std::move(remedy)};
}

TrackerOffer refused(TrackerKind kind, std::string why, std::string remedy) {
  return {kind, false, std::move(why), std::move(remedy)};
}

TrackerOffer refused(TrackerKind kind, const Error& why) {
  std::string text = why.message;
  if (why.sys_errno != 0) text += std::string(" (") + std::strerror(why.sys_errno) + ")";
  return refused(kind, std::move(text), why.remedy);
}

TrackerOffer offer_bitmap(int kvm_fd) {
  const TrackerKind kind = TrackerKind::kKvmBitmap;
  if (kvm_fd < 0) return refused(kind, "there is no KVM here", "open /dev/kvm first");
  const KvmDirtyLog::ManualProtect manual = KvmDirtyLog(kvm_fd).manual_protect();
  if (!manual.offered) {
    return offered(kind, "by the plain log: each collect re-arms all of memory, and is felt",
                   "a kernel of version 5.2 or newer re-arms in chunks");
  }
  if (!manual.initially_set) {
    return offered(kind, "re-armed in chunks; starting write-protects all of memory",
                   "a kernel of version 5.7 or newer starts without a stall");
  }
  return offered(kind, "re-armed in chunks; starts without a stall");
}

TrackerOffer offer_ring(int kvm_fd) {
  const TrackerKind kind = TrackerKind::kKvmRing;
  if (kvm_fd < 0) return refused(kind, "there is no KVM here", "open /dev/kvm first");
  const std::uint32_t entries = KvmDirtyRing::entries_max(kvm_fd);
  if (entries < KvmDirtyRing::kEntriesMin) {
    return refused(kind, "KVM has no dirty ring here", "a kernel of version 5.11 or newer on x86");
  }
  return offered(kind, "dirty rates by vCPU, up to " + std::to_string(entries) +
                           " entries; has to be chosen when the guest is started");
}

TrackerOffer offer_write_protect(TrackerKind kind, std::string detail) {
  const UserfaultSupport support = probe_userfault();
  if (!support.available) {
    return refused(kind, std::string("userfaultfd: ") + std::strerror(support.sys_errno),
                   support.sys_errno == EPERM
                       ? "run as root, or sysctl vm.unprivileged_userfaultfd=1"
                       : "a kernel with CONFIG_USERFAULTFD");
  }
  if (!support.write_protect_async()) {
    return refused(kind, "userfaultfd cannot write-protect asynchronously here",
                   "a kernel of version 6.7 or newer");
  }
  if (const auto pagemap = Pagemap::open(); !pagemap) return refused(kind, pagemap.error());
  return offered(kind, std::move(detail));
}

TrackerOffer offer_soft_dirty() {
  const TrackerKind kind = TrackerKind::kSoftDirty;
  if (const Status supported = soft_dirty_supported(); !supported) {
    return refused(kind, supported.error());
  }
  return offered(
      kind, "stops the process for each collect; may miss what other processes write to it then");
}

bool has(std::span<const TrackerOffer> offers, TrackerKind kind) {
  return std::any_of(offers.begin(), offers.end(), [kind](const TrackerOffer& offer) {
    return offer.kind == kind && offer.available;
  });
}

}  // namespace

std::string_view to_string(TrackerKind kind) {
  for (const auto& [known, name] : kNames) {
    if (known == kind) return name;
  }
  return "unknown";
}

std::vector<TrackerOffer> probe_trackers(int kvm_fd) {
  return {
      offer_bitmap(kvm_fd),
      offer_ring(kvm_fd),
      offer_write_protect(TrackerKind::kWriteProtect, "sees the VMM's and vhost's writes, too"),
      offer_write_protect(TrackerKind::kProcessWriteProtect,
                          "stops the process once, for some 0.1 ms; needs the right to ptrace it"),
      offer_soft_dirty(),
      offered(TrackerKind::kContentHash,
              "needs nothing of the kernel; each collect reads all memory"),
  };
}

TrackerKind best_tracker(GuestKind guest, bool has_ring, std::span<const TrackerOffer> offers) {
  constexpr std::array kForVm = {TrackerKind::kKvmBitmap, TrackerKind::kWriteProtect};
  constexpr std::array kForRingVm = {TrackerKind::kKvmRing, TrackerKind::kWriteProtect};
  constexpr std::array kForProcesses = {TrackerKind::kProcessWriteProtect, TrackerKind::kSoftDirty};
  const auto& order = guest == GuestKind::kContainer ? kForProcesses
                      : has_ring                     ? kForRingVm
                                                     : kForVm;
  for (const TrackerKind kind : order) {
    if (has(offers, kind)) return kind;
  }
  return TrackerKind::kContentHash;
}

}  // namespace migrate
