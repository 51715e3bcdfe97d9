// VirtioDevices: the virtio devices of a guest, each with its file or tap and its registers.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "adapters/kvm/vmm/devices/bus.hpp"
#include "adapters/kvm/vmm/devices/guest_ram.hpp"
#include "adapters/kvm/vmm/devices/io_device.hpp"
#include "adapters/kvm/vmm/devices/virtio_net.hpp"
#include "adapters/kvm/vmm/vmm_config.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// Where the devices of a machine of these slots mark what they write.
[[nodiscard]] std::shared_ptr<SoftwareBitmap> track_writes_to(std::span<const KvmMemorySlot> slots);

class VirtioDevices {
 public:
  /// Makes the line that enters the interrupt controllers at a number.
  using MakeLine = std::function<std::unique_ptr<InterruptLine>(std::uint32_t)>;

  /// Opens disks and taps, and puts the devices on the bus from kVirtioAddress on, disks first,
  /// then network cards. `config` is complete; `ram` and `memory` must outlive this.
  static Result<std::unique_ptr<VirtioDevices>> create(const VmmConfig& config, const GuestRam& ram,
                                                       const MakeLine& make_line, Bus& memory);
  ~VirtioDevices();
  VirtioDevices(const VirtioDevices&) = delete;
  VirtioDevices& operator=(const VirtioDevices&) = delete;

  [[nodiscard]] std::size_t count() const { return cards_.size(); }
  [[nodiscard]] std::vector<MovableDevice*> movable() const;
  /// As their drivers do.
  void reset();
  /// Of all queues, while quiesced.
  void add_first_pages(FirstPages& pages) const;

  /// The network cards, in their order.
  [[nodiscard]] std::size_t nets() const { return nets_.size(); }
  [[nodiscard]] VirtioNet& net(std::size_t card) const;
  /// Of each card: VirtioNet::shed_waiting(), and keep_waiting() of those that shed.
  void shed_waiting_frames() const;
  void stop_shedding() const;
  /// Of each card: VirtioNet::keep_waiting().
  void keep_waiting_frames() const;
  /// The guest is gone: see Tap::close(). While quiesced.
  void close_ports();

  /// Locks all disks, or none.
  Status take_disks();
  /// Writes back and unlocks all. An error leaves some locked: of one that cannot be written, or
  /// not by the deadline (kTimeout).
  Status give_up_disks(SteadyTime deadline);
  /// So that giving them up takes little time: in the background from now on, and waited for.
  void keep_written_back();
  Status write_back(SteadyTime deadline);

 private:
  struct Disk;
  struct Net;
  struct Card;

  VirtioDevices();
  Status add_disk(const DiskConfig& config, const GuestRam& ram);
  Status add_net(const NetConfig& config, const GuestRam& ram);
  Status add_card(class VirtioDevice& device, const GuestRam& ram, const MakeLine& make_line,
                  Bus& memory);

  std::vector<std::unique_ptr<Disk>> disks_;
  std::vector<std::unique_ptr<Net>> nets_;
  // Last: they stop the devices behind them.
  std::vector<std::unique_ptr<Card>> cards_;
};

}  // namespace migrate::vmm
