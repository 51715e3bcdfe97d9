// Vmm::Impl: a Vmm's inside: its parts, and the rules by which the guest runs and stands.
#pragma once

#include "adapters/kvm/vmm/board.hpp"
#include "adapters/kvm/vmm/console.hpp"
#include "adapters/kvm/vmm/devices/device_worker.hpp"
#include "adapters/kvm/vmm/generation.hpp"
#include "adapters/kvm/vmm/guest_memory.hpp"
#include "adapters/kvm/vmm/machine.hpp"
#include "adapters/kvm/vmm/vcpu_group.hpp"
#include "adapters/kvm/vmm/vmm.hpp"
#include "base/event_fd.hpp"
#include "base/mutex.hpp"

namespace migrate::vmm {

class Vmm::Impl final : public VcpuEvents, public BoardEvents {
 public:
  static Result<std::unique_ptr<Impl>> build(const VmmConfig& config, const VmmPlatform& platform);

  Impl(VmmConfig config, GuestMemory memory, Machine machine, EventFd ended);
  ~Impl() override;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  Status boot();

  const VmmConfig& config() const { return config_; }
  const KvmVm& kvm_vm() const { return kvm_vm_; }
  int ended_fd() const { return ended_.fd(); }
  std::string console() const { return console_.text(); }
  Board& board() const { return *board_; }

  Result<PauseResult> pause() MIGRATE_EXCLUDES(control_mutex_, mutex_);
  Status resume() MIGRATE_EXCLUDES(control_mutex_, mutex_);
  void end(VmmState state) MIGRATE_EXCLUDES(control_mutex_, mutex_);
  VmmState state() const MIGRATE_EXCLUDES(mutex_);
  std::optional<Error> failure() const MIGRATE_EXCLUDES(mutex_);
  Result<GuestStats> stats() const MIGRATE_EXCLUDES(mutex_);
  Status throttle(std::uint32_t vcpu, double share);
  Status save_devices(StateWriter& writer) MIGRATE_EXCLUDES(mutex_);
  Status load_device(const SectionInfo& section, StateReader& reader) MIGRATE_EXCLUDES(mutex_);
  Status take_arrived_disks();
  Status give_up_disks();
  Status add_first_pages(PageBitmap& pages) MIGRATE_EXCLUDES(control_mutex_, mutex_);
  std::vector<int> vcpu_threads();
  std::optional<GenerationId> generation_id() const MIGRATE_EXCLUDES(mutex_);
  Status renew_identity() MIGRATE_EXCLUDES(control_mutex_, mutex_);
  Result<std::vector<CardFrame>> take_waiting_frames(std::size_t frames_max, std::size_t bytes_max)
      MIGRATE_EXCLUDES(control_mutex_, mutex_);

  std::chrono::microseconds on_port_write(std::uint32_t vcpu, std::uint16_t port,
                                          std::span<const std::byte> from) override {
    return board_->write_port(vcpu, port, from);
  }
  void on_port_read(std::uint16_t port, std::span<std::byte> into) override {
    board_->read_port(port, into);
  }
  bool on_memory_write(std::uint64_t address, std::span<const std::byte> from) override {
    return board_->write_memory(address, from);
  }
  bool on_memory_read(std::uint64_t address, std::span<std::byte> into) override {
    return board_->read_memory(address, into);
  }
  void on_shutdown(std::uint32_t) override { on_switched_off(); }
  void on_crash(std::uint32_t, Error why) override { on_crashed(std::move(why)); }

  void on_switched_off() override MIGRATE_EXCLUDES(mutex_);
  void on_crashed(Error why) override MIGRATE_EXCLUDES(mutex_);
  void on_restart_wanted() override MIGRATE_EXCLUDES(mutex_);

 private:
  Result<std::unique_ptr<Board>> make_board();
  Status start_restarter();
  void leave_others_a_turn() const;
  Status restart_if_wanted() MIGRATE_REQUIRES(control_mutex_) MIGRATE_EXCLUDES(mutex_);
  bool restart_and_run() MIGRATE_EXCLUDES(control_mutex_, mutex_);
  Status stand_and_restart() MIGRATE_REQUIRES(control_mutex_) MIGRATE_EXCLUDES(mutex_);
  bool has_ended() const MIGRATE_REQUIRES(mutex_) {
    return state_ != VmmState::kPaused && state_ != VmmState::kRunning;
  }
  void end_now(VmmState state, std::optional<Error> why) MIGRATE_REQUIRES(mutex_);
  Status check_alive() const MIGRATE_EXCLUDES(mutex_);
  Status give_generation() MIGRATE_EXCLUDES(mutex_);
  void set_generation(const Generation& generation) MIGRATE_EXCLUDES(mutex_);
  Status load_generation(const SectionInfo& section, StateReader& reader) MIGRATE_EXCLUDES(mutex_);
  std::chrono::nanoseconds cpu_time(std::uint32_t vcpu) const MIGRATE_EXCLUDES(mutex_);

  const VmmConfig config_;
  const GuestMemory memory_;
  Machine machine_;
  KvmVm kvm_vm_;
  EventFd ended_;
  Console console_;

  // Held for the whole of pause, resume and end, so that they do not cross. Before mutex_.
  mutable Mutex control_mutex_;
  std::size_t first_card_ MIGRATE_GUARDED_BY(control_mutex_) = 0;  ///< Whose frames are next.
  bool restart_late_ MIGRATE_GUARDED_BY(control_mutex_) = false;   ///< And the log says so.
  // Before each vCPU's own.
  mutable Mutex mutex_;
  VmmState state_ MIGRATE_GUARDED_BY(mutex_) = VmmState::kPaused;
  std::optional<Error> failure_ MIGRATE_GUARDED_BY(mutex_);
  /// The vCPUs were asked to park, and run no more until the guest begins anew.
  bool restart_wanted_ MIGRATE_GUARDED_BY(mutex_) = false;
  /// CPU time at the hosts the guest has left.
  std::vector<std::chrono::nanoseconds> cpu_before_ MIGRATE_GUARDED_BY(mutex_);
  /// nullopt: it has not arrived, or has come from a version that gives none.
  std::optional<Generation> generation_ MIGRATE_GUARDED_BY(mutex_);

  std::unique_ptr<Board> board_;
  // Last: their threads use all of the above.
  VcpuGroup vcpus_;
  std::unique_ptr<DeviceWorker> restarter_;  ///< Of a Linux; not a vCPU's thread: those park.
};

}  // namespace migrate::vmm
