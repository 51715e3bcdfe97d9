// What devices and the machine around them know of each other: registers, interrupt lines, and the
// life of a device in a migration.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// Something with registers. Called from vCPU threads, several at a time, while the guest runs.
class IoDevice {
 public:
  virtual ~IoDevice() = default;

  /// One access of the guest, `into.size()` (1 to 8) bytes at `offset` of the device's range, all
  /// inside it. Fills all of `into`; what does not exist reads as the bus does: all ones, or zero
  /// where the device's specification says so.
  virtual void read(std::uint64_t offset, std::span<std::byte> into) = 0;
  virtual void write(std::uint64_t offset, std::span<const std::byte> from) = 0;
};

/// An input of the interrupt controllers. Any thread. Setting the level it has is harmless, and a
/// device does so when it resumes: the controllers of another host have not seen it rise.
class InterruptLine {
 public:
  virtual ~InterruptLine() = default;
  virtual void set(bool high) noexcept = 0;
};

/// A device whose state moves with the guest. Called by one thread at a time, and save() and load()
/// only while the vCPUs stand and the device is quiesced.
class MovableDevice {
 public:
  virtual ~MovableDevice() = default;

  /// Name of its section, such as "vmm.virtio-net.0".
  [[nodiscard]] virtual std::string section_name() const = 0;
  virtual Status save(StateWriter& writer) = 0;
  /// Takes over the state of `section`, whose name is section_name(). The bytes are a peer's: what
  /// is wrong with them is kProtocol or kIncompatible, and the device is as after a reset then.
  virtual Status load(const SectionInfo& section, StateReader& reader) = 0;

  /// Ends all work of the device's own threads: when it returns, no request is in flight, guest
  /// memory is written no more and what was written is marked. Requests not yet taken stay in the
  /// rings. kTimeout (the device works on) when a request does not end by `deadline`. Harmless when
  /// it is quiesced already, as a new device is.
  virtual Status quiesce(SteadyTime deadline) = 0;
  /// Lets it work, looks at the rings again, and sets its interrupt line to the level it has.
  virtual void resume() = 0;
};

}  // namespace migrate::vmm
