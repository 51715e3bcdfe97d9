// Board: what is around the processors of a machine: what they start with, their ports and devices.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "adapters/kvm/vmm/machine.hpp"
#include "adapters/kvm/vmm/movable_devices.hpp"
#include "adapters/kvm/vmm/virtio_devices.hpp"
#include "adapters/kvm/vmm/vmm.hpp"
#include "migrate/guest.hpp"
#include "migrate/result.hpp"
#include "migrate/trackers.hpp"

namespace migrate::vmm {

/// What a guest does with its machine. Called from vCPU threads.
class BoardEvents {
 public:
  virtual ~BoardEvents() = default;
  virtual void on_switched_off() = 0;
  /// The guest cannot go on.
  virtual void on_crashed(Error why) = 0;
  /// It wants to begin anew: Board::restart(), once all vCPUs stand.
  virtual void on_restart_wanted() = 0;
};

/// The demo guest's and Linux's. Methods are called by one thread at a time, but for those of
/// accesses, which come from vCPU threads, several at a time, and for stats() and console_*(),
/// which come from any.
class Board {
 public:
  virtual ~Board() = default;

  /// Puts what the guest starts with into fresh memory and vCPUs.
  virtual Status boot(Machine& machine) = 0;
  /// The same again, in memory and vCPUs that were used. kUnsupported when there is nothing to
  /// start with. While quiesced.
  virtual Status restart(Machine& machine) = 0;

  /// Accesses, as in VcpuEvents.
  virtual std::chrono::microseconds write_port(std::uint32_t vcpu, std::uint16_t port,
                                               std::span<const std::byte> from) = 0;
  virtual void read_port(std::uint16_t port, std::span<std::byte> into) = 0;
  virtual bool write_memory(std::uint64_t address, std::span<const std::byte> from) = 0;
  virtual bool read_memory(std::uint64_t address, std::span<std::byte> into) = 0;

  /// The guest will leave soon: what would take long then begins in the background. Any thread.
  virtual void prepare_leaving() = 0;
  /// The guest is about to be paused: what would take long then is done now. kTimeout, and kIo when
  /// what its disks were given did not reach their storage: no other host may go on from them.
  virtual Status prepare_pause(SteadyTime deadline) = 0;
  /// Ends all work of devices, as MovableDevice. The vCPUs may run still: their requests wait.
  /// kTimeout: all work on. New: quiesced.
  virtual Status quiesce(SteadyTime deadline) = 0;
  /// The guest has ended: as quiesce(), but one device that hangs does not set the others to work
  /// again, and the taps are let go of.
  virtual void stand_for_good(SteadyTime deadline) = 0;
  /// Lets devices work, before the vCPUs run. An error: they stand.
  virtual Status resume() = 0;

  /// Its devices, to be saved and loaded while quiesced.
  [[nodiscard]] virtual MovableDevices& movable() = 0;
  /// Its network cards and what is on them.
  [[nodiscard]] virtual const VirtioDevices& devices() const = 0;

  /// What only one host may hold: the locks of disks. Harmless when held, or not held. Giving up
  /// has prepare_pause()'s errors, and some may be held then.
  virtual Status take_disks() = 0;
  virtual Status give_up_disks(SteadyTime deadline) = 0;

  [[nodiscard]] virtual Result<GuestStats> stats() const = 0;
  [[nodiscard]] virtual std::string console_terminal() const = 0;
  virtual std::size_t console_input(std::span<const std::byte> bytes) = 0;
  /// Where a guest that was started here looks for its generation id; nullopt: nowhere.
  [[nodiscard]] virtual std::optional<GuestAddr> generation_address() const = 0;
  /// The guest is a copy of another: the generation id in its memory has changed, and so have the
  /// addresses of cards that have a former one. It is told, to hear when it goes on. While
  /// quiesced.
  virtual void tell_of_new_identity() = 0;
  /// Names what the guest touches first when it goes on. While quiesced.
  virtual void add_first_pages(FirstPages& pages) const = 0;
  /// Where it marks what it writes to guest memory; null when it writes none while the guest runs.
  [[nodiscard]] virtual std::shared_ptr<SoftwareBitmap> writes() const = 0;
};

}  // namespace migrate::vmm
