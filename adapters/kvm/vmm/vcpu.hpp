// Vcpu: one virtual CPU and the thread that runs it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <thread>

#include "adapters/kvm/vmm/kick.hpp"
#include "adapters/kvm/vmm/machine.hpp"
#include "base/mutex.hpp"
#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// What a vCPU's exits come to. Called from vCPU threads, several at a time.
class VcpuEvents {
 public:
  virtual ~VcpuEvents() = default;
  /// The guest wrote 1, 2 or 4 bytes to a port. How long the vCPU waits before it goes on; 0: not
  /// at all.
  virtual std::chrono::microseconds on_port_write(std::uint32_t vcpu, std::uint16_t port,
                                                  std::span<const std::byte> from) = 0;
  /// It reads as many.
  virtual void on_port_read(std::uint16_t port, std::span<std::byte> into) = 0;
  /// It accessed 1 to 8 bytes where no memory is. False: nothing can be there, and it cannot go on.
  virtual bool on_memory_write(std::uint64_t address, std::span<const std::byte> from) = 0;
  virtual bool on_memory_read(std::uint64_t address, std::span<std::byte> into) = 0;
  /// The guest has shut the machine down.
  virtual void on_shutdown(std::uint32_t vcpu) = 0;
  /// The guest cannot go on. The vCPU parks.
  virtual void on_crash(std::uint32_t vcpu, Error why) = 0;
};

/// Any thread may call any method. The thread parks at first, and whenever it shall not run.
///
/// The kick: the thread blocks all signals; KVM_RUN lets one real-time signal through
/// (KVM_SET_SIGNAL_MASK), returns when it comes, and the thread then takes it off by sigtimedwait.
/// No handler is ever called, so the process need not have one.
class Vcpu {
 public:
  /// `fd` and `events` must outlive it. `ring`: the VM's, or null.
  Vcpu(std::uint32_t id, const VcpuFd& fd, VcpuEvents& events,
       std::shared_ptr<KvmDirtyRing> ring = nullptr);
  ~Vcpu();
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  /// Makes the thread.
  Status start();

  void let_run() MIGRATE_EXCLUDES(mutex_);
  /// Asks the thread to park, and does not wait. A wait on a port ends early.
  void ask_to_park() MIGRATE_EXCLUDES(mutex_);
  /// Waits until it has: outside KVM_RUN, its last exit completed. False at the deadline.
  bool wait_parked(SteadyTime deadline) MIGRATE_EXCLUDES(mutex_);
  /// When it parked last.
  [[nodiscard]] SteadyTime parked_at() const MIGRATE_EXCLUDES(mutex_);

  /// More would be a pause: at this share a vCPU still gets a slice every 10 ms.
  static constexpr double kShareMax = 0.99;
  /// Withholds a share of run time, 0 to kShareMax.
  void throttle(double share) MIGRATE_EXCLUDES(mutex_);
  /// Of the thread.
  [[nodiscard]] std::chrono::nanoseconds cpu_time() const;
  /// gettid(2) of the thread. After start().
  [[nodiscard]] int thread_id() MIGRATE_EXCLUDES(mutex_);

 private:
  using Nanoseconds = std::chrono::nanoseconds;

  void run() MIGRATE_EXCLUDES(mutex_);
  bool wait_for_leave() MIGRATE_EXCLUDES(mutex_);
  int enter_guest();
  void handle_exit() MIGRATE_EXCLUDES(mutex_);
  void handle_port() MIGRATE_EXCLUDES(mutex_);
  void handle_memory();
  void handle_system_event();
  void handle_full_ring();
  void crash(const std::string& what, int sys_errno = 0);
  void sleep_for(Nanoseconds time) MIGRATE_EXCLUDES(mutex_);
  void hold_if_due() MIGRATE_EXCLUDES(mutex_);
  void set_immediate_exit(bool on);

  const std::uint32_t id_;
  const VcpuFd& fd_;
  VcpuEvents& events_;
  const std::shared_ptr<KvmDirtyRing> ring_;

  mutable Mutex mutex_;
  CondVar changed_;
  bool may_run_ MIGRATE_GUARDED_BY(mutex_) = false;
  bool quit_ MIGRATE_GUARDED_BY(mutex_) = false;
  bool parked_ MIGRATE_GUARDED_BY(mutex_) = true;
  SteadyTime parked_at_ MIGRATE_GUARDED_BY(mutex_){};
  int thread_id_ MIGRATE_GUARDED_BY(mutex_) = 0;  ///< 0: it has not come so far.
  double share_ MIGRATE_GUARDED_BY(mutex_) = 0;

  // The thread's own.
  double share_now_ = 0;       ///< As of this entry.
  bool exit_pending_ = false;  ///< The kernel holds an exit that the next KVM_RUN completes.
  Nanoseconds ran_{0};         ///< In the guest, since it was held last.
  SliceTimer timer_;

  std::thread thread_;
};

}  // namespace migrate::vmm
