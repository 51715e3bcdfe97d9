// TrackedGuest: a KVM guest of two vCPUs that does nothing but write to memory: one every so many
// pages when it is told to, one page after page to see how long it is held up.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "bench/tracked_memory.hpp"
#include "migrate/kvm_dirty_ring.hpp"
#include "migrate/kvm_slot.hpp"

struct kvm_run;  // <linux/kvm.h>

namespace migrate::bench {

/// Which dirty rings the vCPUs have: the library's, or ones that who made the guest looks after.
enum class GuestRing : std::uint8_t { kNone, kLibrary, kBare };
/// As large as the library's, by KVM_CAP_DIRTY_LOG_RING_ACQ_REL; of a VM without vCPUs.
void enable_bare_ring(int vm_fd);

/// Empties the ring of a vCPU.
using OnRingFull = std::function<void(std::uint32_t vcpu)>;

class TrackedGuest {
 public:
  static constexpr std::uint32_t kVcpus = 2;
  /// Pages below are the guest's program and page tables, and not written.
  static constexpr std::uint64_t kFirstPage = 512;

  /// `memory`, at most 64 GiB, must outlive it; several guests may share it.
  TrackedGuest(const TrackedMemory& memory, GuestRing ring);
  ~TrackedGuest();
  TrackedGuest(const TrackedGuest&) = delete;
  TrackedGuest& operator=(const TrackedGuest&) = delete;

  [[nodiscard]] static bool available() { return Fd(open_kvm()).get() >= 0; }
  [[nodiscard]] static bool has_rings();

  [[nodiscard]] int vm_fd() const { return vm_.get(); }
  [[nodiscard]] int vcpu_fd(std::uint32_t id) const { return vcpus_[id].fd.get(); }
  [[nodiscard]] std::span<const KvmMemorySlot> slots() const { return slots_; }
  [[nodiscard]] const std::shared_ptr<KvmDirtyRing>& ring() const { return ring_; }
  /// For bare rings; called on the vCPU's thread.
  void on_ring_full(OnRingFull f) { on_ring_full_ = std::move(f); }

  /// vCPU 0 writes a word of every `step`-th page of each slot; in this thread. Pages written.
  std::uint64_t write(std::uint64_t step);
  /// Lets vCPU 1 spin; stop_spinning() gives its longest time between two writes in milliseconds.
  void spin();
  double stop_spinning();

 private:
  struct Vcpu {
    Fd fd;
    kvm_run* run = nullptr;
  };

  static int open_kvm();
  void add_slot(std::uint64_t first_byte, std::uint64_t bytes, std::uint64_t guest_address);
  void load_programs();
  void add_vcpu(std::uint32_t id);
  void set_mode(const Vcpu& vcpu);
  void set_registers(const Vcpu& vcpu, std::uint64_t program, PageRange pages, std::uint64_t step);
  /// True when it left by its port, false when it was told to.
  bool run(std::uint32_t id);

  const TrackedMemory& memory_;
  Fd kvm_;
  Fd vm_;
  std::shared_ptr<KvmDirtyRing> ring_;
  OnRingFull on_ring_full_;
  std::size_t run_bytes_ = 0;
  std::vector<KvmMemorySlot> slots_;
  std::vector<Vcpu> vcpus_;
  std::atomic<bool> spinning_{false};
  std::atomic<bool> stop_spinning_{false};
  std::thread spinner_;
};

}  // namespace migrate::bench
