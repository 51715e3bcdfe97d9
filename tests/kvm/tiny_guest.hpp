// TinyGuest: a real KVM guest of a few bytes of machine code, for tests of trackers and adapter.
//
// Each vCPU runs in ring 3 with memory mapped one to one and sweeps over a range of pages for ever:
// it adds 1 to the first word of each page, counts the sweep in r8, xmm0 and xmm15, checks that
// rdtsc has not gone back (r11 counts violations), and reports at port 0x10.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "migrate/kvm.hpp"

namespace migrate::testing {

struct TinyGuestOptions {
  std::uint32_t vcpus = 1;
  bool irqchip = true;
  bool pit = false;
  std::vector<std::uint64_t> slot_pages = {4096};  ///< Adjoining slots, the first at address 0.
  bool anonymous = false;                          ///< Private anonymous memory instead of a memfd.
  std::uint64_t sweep_first = 1024;  ///< First page swept; the pages are dealt out to the vCPUs.
  std::uint64_t sweep_pages = 2048;
  bool programmed = true;          ///< False: nothing is loaded, as at a migration's target.
  bool gated = false;              ///< Sweeps happen only when sweep() asks for them.
  std::uint32_t ring_entries = 0;  ///< Not 0: with a dirty ring of so many a vCPU.
};

/// True where /dev/kvm opens; `reason` says why not.
[[nodiscard]] bool kvm_usable(std::string& reason);

#define MIGRATE_NEEDS_KVM()                                        \
  do {                                                             \
    std::string why;                                               \
    if (!::migrate::testing::kvm_usable(why)) GTEST_SKIP() << why; \
  } while (false)

/// Throws std::runtime_error when KVM refuses something: the test fails.
class TinyGuest {
 public:
  explicit TinyGuest(TinyGuestOptions options = {});
  ~TinyGuest();
  TinyGuest(const TinyGuest&) = delete;
  TinyGuest& operator=(const TinyGuest&) = delete;

  [[nodiscard]] KvmVm vm() const;
  /// Null without `ring_entries`.
  [[nodiscard]] const std::shared_ptr<KvmDirtyRing>& ring() const { return ring_; }
  [[nodiscard]] const TinyGuestOptions& options() const { return options_; }
  [[nodiscard]] std::span<const KvmMemorySlot> slots() const { return slots_; }
  [[nodiscard]] std::vector<Region> regions() const;
  [[nodiscard]] std::byte* page(std::uint64_t number) const;
  /// The word that sweeps count up; relaxed, beside the running guest.
  [[nodiscard]] std::uint64_t word(std::uint64_t page_number) const;
  [[nodiscard]] std::uint64_t pages() const;

  /// Lets the vCPUs run, from the first call on in threads of their own.
  void resume();
  /// Returns when each vCPU is parked, its last exit completed.
  void pause();
  /// Gated guests: lets each vCPU do `count` sweeps and waits for them.
  void sweep(std::uint64_t count);
  /// Waits until each vCPU has done `count` sweeps more than now.
  void wait_for_sweeps(std::uint64_t count);
  [[nodiscard]] std::uint64_t sweeps(std::uint32_t vcpu) const;

  /// For tests that run a vCPU themselves.
  [[nodiscard]] kvm_run* run_area(std::uint32_t vcpu) const { return vcpus_[vcpu]->run; }

  /// Of a parked guest.
  struct Registers {
    std::uint64_t rip = 0, r8 = 0, r10 = 0, r11 = 0, rax = 0;
    std::uint64_t xmm0 = 0, xmm15 = 0;
  };
  [[nodiscard]] Registers registers(std::uint32_t vcpu) const;

 private:
  struct Vcpu {
    std::uint32_t id = 0;
    Fd fd;
    kvm_run* run = nullptr;
    std::thread thread;
    std::uint64_t sweeps = 0;  ///< Guarded by mutex_, as are the two below.
    std::uint64_t allowed = 0;
    bool parked = true;
    std::string failure;
  };

  void add_slot(std::uint32_t number, std::uint64_t pages, std::uint64_t address);
  void add_vcpu(std::uint32_t id);
  void load_program();
  void set_registers(Vcpu& vcpu, std::uint64_t first_page, std::uint64_t count);
  void run_vcpu(Vcpu& vcpu);
  void handle_exit(Vcpu& vcpu, int error);
  /// Empties the vCPU's ring when that is why it left; what went wrong otherwise, if anything.
  Status handle_full_ring(Vcpu& vcpu, int error);
  bool may_run(const Vcpu& vcpu) const;
  void check_failures();

  TinyGuestOptions options_;
  Fd kvm_;
  Fd vm_;
  std::shared_ptr<KvmDirtyRing> ring_;
  std::size_t run_bytes_ = 0;
  std::vector<Fd> memfds_;
  std::vector<KvmMemorySlot> slots_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool paused_ = true;
  bool quit_ = false;
};

}  // namespace migrate::testing
