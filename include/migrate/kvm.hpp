// Live migration of a KVM guest for any VMM that has its file descriptors: the adapter captures and
// restores vCPUs, interrupt controllers and clocks; the VMM adds its devices by hooks.
//
// A VMM does three things: it fills a KvmVm, implements KvmSourceHooks (to leave) and
// KvmTargetHooks (to arrive), and parks its vCPU threads the way pause() asks for. Library
// migrate::kvm.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/guest.hpp"
#include "migrate/kvm_dirty_ring.hpp"
#include "migrate/kvm_slot.hpp"
#include "migrate/result.hpp"
#include "migrate/tracker_choice.hpp"
#include "migrate/trackers.hpp"

struct kvm_run;  // <linux/kvm.h>

namespace migrate {

/// What a guest's processor looks like to it (CPUID, MSRs, TSC frequency), as bytes only this
/// adapter reads. It does not change after the guest has started.
struct KvmCpuModel {
  std::vector<std::byte> bytes;
  [[nodiscard]] bool empty() const { return bytes.empty(); }
};

/// A VM by its descriptors. All stay the VMM's, and open until the migration's run() has returned.
struct KvmVm {
  int kvm_fd = -1;
  int vm_fd = -1;
  std::vector<int> vcpu_fds;  ///< By vCPU id: the one of KVM_CREATE_VCPU(i) at place i.
  std::vector<KvmMemorySlot> slots;
  bool irqchip = false;  ///< KVM_CREATE_IRQCHIP was called.
  bool pit = false;      ///< KVM_CREATE_PIT2 was called.
  /// Where one was enabled on the VM: it is how its writes are tracked then.
  std::shared_ptr<KvmDirtyRing> dirty_ring;
  /// From capture_cpu_model(), where the VMM took it; otherwise describing a running guest stops it
  /// for an instant, because KVM answers no question about a vCPU that runs.
  KvmCpuModel cpu_model;
};

/// Reads the CPU model. Call it when CPUID and MSRs are set and no vCPU is in KVM_RUN: before the
/// guest's first instruction, at the source as at the target, is a good time.
[[nodiscard]] Result<KvmCpuModel> capture_cpu_model(const KvmVm& vm);

/// Completes the I/O or MMIO exit that KVM_RUN returned with, without running the guest. Until then
/// half an instruction is inside the kernel, and state saved then repeats or loses it. The vCPU's
/// own thread calls this when it parks, after it has handled the exit (filled in kvm_run's data).
///
/// False: completing led to a further exit (an access in parts), which is in kvm_run now: handle it
/// and call again. Leaves `immediate_exit` as it was, or as another thread has set it to 1
/// meanwhile. Harmless when nothing is pending.
[[nodiscard]] Result<bool> complete_pending_exit(int vcpu_fd, kvm_run* run);

/// What the adapter asks of the VMM at the source. Called from the migration's coordinator thread,
/// one at a time, and only while make_kvm_source()'s guest is with an Outgoing or being resolved.
/// No exception may leave them: catch at this border and return an Error.
class KvmSourceHooks {
 public:
  virtual ~KvmSourceHooks() = default;

  [[nodiscard]] virtual std::string name() = 0;
  /// More of the guest's description, such as its devices; sections must not begin with "kvm.".
  virtual Result<std::vector<GuestDescription::Property>> properties() = 0;

  /// As in SourceGuest.
  [[nodiscard]] virtual RunState run_state() = 0;
  /// As SourceGuest::pause(). On return every vCPU thread is outside KVM_RUN with its last exit
  /// completed (complete_pending_exit) and no other thread uses the vCPU descriptors; device I/O
  /// has drained, and pages it wrote are marked in the SoftwareBitmap.
  virtual Result<PauseResult> pause() = 0;
  virtual Status resume() = 0;

  /// Writes the VMM's device sections (names not beginning with "kvm."). Comes before KVM's own
  /// state is read, so it may still change interrupt lines and guest memory (marked as above).
  virtual Status save_devices(StateWriter& writer) = 0;

  /// As in SourceGuest.
  virtual Status throttle(std::uint32_t vcpu, double share) = 0;
  virtual Status relinquish() = 0;
  virtual Status reclaim() = 0;
  virtual Status release() = 0;
  virtual Status first_pages(PageBitmap& pages) = 0;
  virtual PacketSource* waiting_packets() = 0;

  /// Something an operator may want in a log, such as MSRs that cannot be moved.
  virtual void note(std::string_view text) = 0;
};

/// What a source's machine is made of; KvmTargetHooks::build() makes its like.
struct KvmMachine {
  struct Slot {
    std::uint32_t slot = 0;
    GuestAddr guest_address;
    std::uint64_t bytes = 0;
    Backing backing = Backing::kUnknown;  ///< At the source; the target may choose its own.
    bool read_only = false;
  };
  std::uint32_t vcpus = 0;
  bool irqchip = false;
  bool pit = false;
  std::uint32_t tsc_khz = 0;  ///< The guest's; 0 where KVM does not tell.
  std::vector<Slot> slots;
};
/// Reads it from a description; kProtocol when it is not a KVM guest's or malformed.
[[nodiscard]] Result<KvmMachine> kvm_machine(const GuestDescription& description);

/// What the adapter asks of the VMM at the target. Called from the coordinator thread, one at a
/// time. No exception may leave them. After start(), or discard(), nothing else is called.
class KvmTargetHooks {
 public:
  virtual ~KvmTargetHooks() = default;

  /// Makes a VM like `machine`: memory that reads as zero in the same slots, irqchip and PIT, then
  /// the vCPUs with ids 0.. . Not needed: CPUID (the adapter sets the source's), TSC frequency,
  /// registers. No vCPU may run yet. Called once, after the preflight has passed.
  virtual Result<KvmVm> build(const GuestDescription& description, const KvmMachine& machine) = 0;

  /// Loads one of the VMM's sections; all come before KVM's own state is loaded. For a section the
  /// VMM does not know: StateReader::skip_unknown(). Called again in each attempt.
  virtual Status load_device(const SectionInfo& section, StateReader& reader) = 0;

  /// As in TargetGuest. start() lets the vCPU threads go (or leaves them parked, for kPaused).
  virtual Status acquire() = 0;
  virtual Status yield() = 0;
  virtual Status start(RunState state) = 0;
  /// Drops what build() made, if it was called.
  virtual void discard() = 0;
  /// As in TargetGuest.
  [[nodiscard]] virtual std::vector<int> vcpu_threads() = 0;
  virtual PacketSink* packet_sink() = 0;

  virtual void note(std::string_view text) = 0;
};

struct KvmSourceOptions {
  /// Tracks vCPU writes; null: one of the kind `tracking`, over the slots.
  std::unique_ptr<DirtyTracker> tracker;
  /// nullopt: the best this host and VM offer (tracker_choice.hpp). kProcessWriteProtect and
  /// kSoftDirty are for other processes and refused, as is the ring without KvmVm::dirty_ring and
  /// the bitmap with it.
  std::optional<TrackerKind> tracking;
  /// Where the VMM marks its own writes to guest memory, joined to the tracker; null for a VMM that
  /// writes none while the guest runs.
  std::shared_ptr<SoftwareBitmap> vmm_writes;
};

/// A guest that may leave. `hooks` must outlive it. kInvalidArgument when `vm` is incomplete.
[[nodiscard]] Result<std::unique_ptr<SourceGuest>> make_kvm_source(KvmVm vm, KvmSourceHooks& hooks,
                                                                   KvmSourceOptions options = {});

struct KvmTargetOptions {
  /// build() takes guest memory from the host's pool of hugetlb pages of this size; 0: it does not.
  /// The preflight asks that pool then, not the host's free memory.
  std::uint64_t huge_page_bytes = 0;
};

/// A guest that may arrive. `kvm_fd` (/dev/kvm) is used for the preflight, before build(); it and
/// `hooks` must outlive the guest.
[[nodiscard]] std::unique_ptr<TargetGuest> make_kvm_target(int kvm_fd, KvmTargetHooks& hooks,
                                                           const KvmTargetOptions& options = {});

}  // namespace migrate
