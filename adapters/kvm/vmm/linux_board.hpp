// LinuxBoard: the PC without a past that Linux runs on: serial console, virtio devices, ports to
// switch it off, to reset it and to tell of a panic (linux/memory_map.hpp).
#pragma once

#include <memory>
#include <string>

#include "adapters/kvm/vmm/board.hpp"
#include "adapters/kvm/vmm/console.hpp"
#include "adapters/kvm/vmm/devices/bus.hpp"
#include "adapters/kvm/vmm/devices/guest_ram.hpp"
#include "adapters/kvm/vmm/devices/panic_port.hpp"
#include "adapters/kvm/vmm/devices/power_ports.hpp"
#include "adapters/kvm/vmm/devices/serial_16550.hpp"
#include "adapters/kvm/vmm/fresh_cpus.hpp"
#include "adapters/kvm/vmm/virtio_devices.hpp"
#include "base/mutex.hpp"

namespace migrate::vmm {

class LinuxBoard final : public Board {
 public:
  /// Opens disks, taps and console. All must outlive it; `config` is complete. kUnsupported for a
  /// machine without an in-kernel interrupt controller.
  static Result<std::unique_ptr<Board>> create(const VmmConfig& config, const Machine& machine,
                                               std::span<const KvmMemorySlot> slots,
                                               Console& console, BoardEvents& events);
  /// Ends the thread of what is typed, before what it types into.
  ~LinuxBoard() override { host_console_.reset(); }

  Status boot(Machine& machine) override;
  Status restart(Machine& machine) override;

  std::chrono::microseconds write_port(std::uint32_t vcpu, std::uint16_t port,
                                       std::span<const std::byte> from) override;
  void read_port(std::uint16_t port, std::span<std::byte> into) override;
  bool write_memory(std::uint64_t address, std::span<const std::byte> from) override;
  bool read_memory(std::uint64_t address, std::span<std::byte> into) override;

  void prepare_leaving() override { devices_->keep_written_back(); }
  Status prepare_pause(SteadyTime deadline) override { return devices_->write_back(deadline); }
  Status quiesce(SteadyTime deadline) override MIGRATE_EXCLUDES(input_mutex_);
  void stand_for_good(SteadyTime deadline) override MIGRATE_EXCLUDES(input_mutex_);
  Status resume() override MIGRATE_EXCLUDES(input_mutex_);

  MovableDevices& movable() override { return movable_; }
  const VirtioDevices& devices() const override { return *devices_; }

  Status take_disks() override { return devices_->take_disks(); }
  Status give_up_disks(SteadyTime deadline) override { return devices_->give_up_disks(deadline); }

  Result<GuestStats> stats() const override;
  std::string console_terminal() const override;
  std::size_t console_input(std::span<const std::byte> bytes) override
      MIGRATE_EXCLUDES(input_mutex_);
  std::optional<GuestAddr> generation_address() const override;
  void tell_of_new_identity() override;
  void add_first_pages(FirstPages& pages) const override { devices_->add_first_pages(pages); }
  std::shared_ptr<SoftwareBitmap> writes() const override { return writes_; }

 private:
  LinuxBoard(const VmmConfig& config, const Machine& machine, std::span<const KvmMemorySlot> slots,
             FreshCpus fresh_cpus, Console& console, BoardEvents& events);
  Status add_devices(const Machine& machine);
  Status load_and_enter(const Machine& machine);
  void reset_serial();
  void close_input() MIGRATE_EXCLUDES(input_mutex_);
  void print(std::span<const std::byte> bytes);
  void on_panic(PanicEvent event);

  const VmmConfig& config_;
  const std::vector<KvmMemorySlot> slots_;
  const FreshCpus fresh_cpus_;
  const std::shared_ptr<SoftwareBitmap> writes_;
  const GuestRam ram_;
  Console& console_;
  BoardEvents& events_;

  // Before the serial port, which prints to it.
  std::unique_ptr<HostConsole> host_console_;
  bool input_started_ = false;
  // What is typed comes from threads of its own, which are not quiesced: they are kept out.
  Mutex input_mutex_;
  bool input_open_ MIGRATE_GUARDED_BY(input_mutex_) = false;

  const std::unique_ptr<InterruptLine> generation_line_;
  const std::unique_ptr<InterruptLine> serial_line_;
  Serial16550 serial_;
  PanicPort panic_;
  PowerPorts power_;
  Bus ports_{"port"};
  Bus memory_{"address"};
  std::unique_ptr<VirtioDevices> devices_;
  MovableDevices movable_;  ///< All of the above that move.
};

}  // namespace migrate::vmm
