// VirtioDevice: what a kind of virtio device adds to the transport it sits behind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "adapters/kvm/vmm/devices/virtqueue.hpp"
#include "adapters/kvm/vmm/section_bytes.hpp"
#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// What a device asks of its transport. Any thread.
class VirtioTransport {
 public:
  virtual ~VirtioTransport() = default;
  /// Requests were completed and the guest wants to know.
  virtual void interrupt() = 0;
  /// The guest's driver broke the rules; until it resets the device, that does nothing more.
  virtual void needs_reset(std::string_view why) = 0;
};

/// Implemented by the network and block devices. The transport calls one method at a time, but
/// notify(); the device's own thread works between start() and stop(), while not quiesced.
class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;

  /// Such as "virtio-net.0".
  [[nodiscard]] virtual std::string name() const = 0;
  [[nodiscard]] virtual std::uint32_t type() const = 0;  ///< VIRTIO_ID_*
  [[nodiscard]] virtual std::uint64_t features() const = 0;
  [[nodiscard]] virtual std::size_t queues() const = 0;

  /// The device's part of configuration space; what lies past its end is not asked for. Bytes a
  /// guest may write there: none so far. vCPU threads.
  [[nodiscard]] virtual std::span<const std::byte> config() const = 0;

  /// It is another than the device had whose state is loaded here, and its driver is to look again.
  [[nodiscard]] virtual bool config_has_changed() const = 0;

  /// The driver is ready. `features` is what was agreed on, `queues` has queues() of them, not all
  /// of them started; both it and `transport` stay until stop().
  virtual void start(VirtioTransport& transport, std::uint64_t features,
                     std::span<Virtqueue> queues) = 0;
  /// When it returns, nothing touches the queues; requests taken have been completed. Harmless when
  /// stopped.
  virtual void stop() = 0;
  /// There may be requests in a queue. Any thread.
  virtual void notify(std::size_t queue) = 0;

  /// As MovableDevice's.
  virtual Status quiesce(SteadyTime deadline) = 0;
  virtual void resume() = 0;

  /// What the guest knows of the device beside the transport's state, to be the same at the target.
  virtual void save(SectionBytes& bytes) const = 0;
  /// kIncompatible when this device is another.
  virtual Status check(SectionCursor& cursor) const = 0;
};

}  // namespace migrate::vmm
