// Vmm: a KVM guest with a few vCPUs and one device, as small as it can be. It can be stopped and
// let go on, and knows nothing of migration: what that needs is in migration.hpp.
#pragma once

#include <linux/kvm.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace tiny {

struct Shape {
  unsigned vcpus = 1;
  std::uint64_t memory_bytes = 64 << 20;
};

/// What the counter device holds for one vCPU.
struct Counter {
  std::uint64_t passes = 0;
  std::uint64_t errors = 0;
};

/// A descriptor that closes itself.
class Handle {
 public:
  Handle() = default;
  explicit Handle(int fd) : fd_(fd) {}
  Handle(Handle&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Handle& operator=(Handle&& other) noexcept { return std::swap(fd_, other.fd_), *this; }
  ~Handle();
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_ = -1;
};

/// Methods may be called by any thread. Whatever fails throws.
class Vmm {
 public:
  enum class Start { kGuest, kEmpty };  ///< Empty: memory and registers come from elsewhere.

  /// Stands until resume().
  Vmm(const Shape& shape, Start start);
  ~Vmm();
  Vmm(const Vmm&) = delete;
  Vmm& operator=(const Vmm&) = delete;

  void resume();
  /// On return no vCPU is in the guest, none is inside an access to a device, and the device writes
  /// no memory. Gives when the last vCPU had left.
  std::chrono::steady_clock::time_point pause();
  [[nodiscard]] bool paused() const;

  [[nodiscard]] const Shape& shape() const { return shape_; }
  [[nodiscard]] int kvm_fd() const { return kvm_.get(); }
  [[nodiscard]] int vm_fd() const { return vm_.get(); }
  [[nodiscard]] int vcpu_fd(unsigned id) const { return vcpus_[id]->fd.get(); }
  [[nodiscard]] int memfd() const { return memfd_.get(); }
  [[nodiscard]] std::span<std::byte> memory() const { return memory_; }

  /// The device's state. Set it while the guest is paused.
  [[nodiscard]] std::vector<Counter> counters() const;
  void set_counters(std::vector<Counter> counters);

  /// Called when the device has written to guest memory, with where and how much; by vCPU threads.
  /// Set it before the guest runs.
  std::function<void(std::uint64_t address, std::uint64_t bytes)> on_device_write;

  /// Why the guest cannot go on; empty when it can.
  [[nodiscard]] std::string failure() const;

 private:
  struct Vcpu {
    unsigned id = 0;
    Handle fd;
    kvm_run* run = nullptr;
    bool exit_pending = false;  // KVM has half an access inside it. Its own thread's.
    bool parked = false;
    std::thread thread;
  };

  void add_memory();
  void add_vcpu(unsigned id, Start start);
  void run_vcpu(Vcpu& vcpu);
  bool wait_for_leave(Vcpu& vcpu);
  void finish_access(Vcpu& vcpu);
  void handle_exit(Vcpu& vcpu);
  void access_port(unsigned id, std::uint16_t port, bool out, std::uint32_t& value);
  void count_pass(unsigned id);
  void set_failure(const std::string& what);

  const Shape shape_;
  Handle kvm_, vm_, memfd_;
  std::span<std::byte> memory_;
  std::size_t run_bytes_ = 0;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;

  mutable std::mutex mutex_;  // Guards what follows, and Vcpu::parked.
  std::condition_variable changed_;
  bool paused_ = true;
  bool quit_ = false;
  std::chrono::steady_clock::time_point stopped_at_;
  std::vector<Counter> counters_;
  std::string failure_;
};

}  // namespace tiny
