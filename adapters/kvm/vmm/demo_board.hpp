// DemoBoard: the demo guest's machine: four ports, and a network card for each of its responders.
#pragma once

#include <memory>

#include "adapters/kvm/vmm/board.hpp"
#include "adapters/kvm/vmm/console.hpp"
#include "adapters/kvm/vmm/devices/bus.hpp"
#include "adapters/kvm/vmm/devices/guest_ram.hpp"
#include "adapters/kvm/vmm/guest_memory.hpp"
#include "adapters/kvm/vmm/virtio_devices.hpp"

namespace migrate::vmm {

class DemoBoard final : public Board {
 public:
  /// Opens taps. All must outlive it; `config` is complete.
  static Result<std::unique_ptr<Board>> create(const VmmConfig& config, const GuestMemory& memory,
                                               Console& console, BoardEvents& events);

  Status boot(Machine& machine) override;
  Status restart(Machine& machine) override;

  std::chrono::microseconds write_port(std::uint32_t vcpu, std::uint16_t port,
                                       std::span<const std::byte> from) override;
  void read_port(std::uint16_t port, std::span<std::byte> into) override;
  // Without cards its page tables map nothing but memory, so an access beyond is a fault of its
  // own.
  bool write_memory(std::uint64_t address, std::span<const std::byte> from) override;
  bool read_memory(std::uint64_t address, std::span<std::byte> into) override;

  void prepare_leaving() override {}
  Status prepare_pause(SteadyTime) override { return {}; }
  Status quiesce(SteadyTime deadline) override;
  void stand_for_good(SteadyTime deadline) override {
    movable_.stand_for_good(deadline);
    devices_->close_ports();
  }
  Status resume() override;

  MovableDevices& movable() override { return movable_; }
  const VirtioDevices& devices() const override { return *devices_; }

  Status take_disks() override { return {}; }
  Status give_up_disks(SteadyTime) override { return {}; }

  Result<GuestStats> stats() const override;
  std::string console_terminal() const override { return {}; }
  std::size_t console_input(std::span<const std::byte>) override { return 0; }
  std::optional<GuestAddr> generation_address() const override { return std::nullopt; }
  void tell_of_new_identity() override;
  void add_first_pages(FirstPages& pages) const override;
  std::shared_ptr<SoftwareBitmap> writes() const override { return writes_; }

 private:
  DemoBoard(const VmmConfig& config, const GuestMemory& memory, Console& console,
            BoardEvents& events, std::shared_ptr<SoftwareBitmap> writes);

  const VmmConfig& config_;
  const GuestMemory& memory_;
  Console& console_;
  BoardEvents& events_;

  const std::shared_ptr<SoftwareBitmap> writes_;  ///< Null without cards.
  const GuestRam ram_;
  Bus bus_{"address"};
  std::unique_ptr<VirtioDevices> devices_;
  MovableDevices movable_;
};

}  // namespace migrate::vmm
