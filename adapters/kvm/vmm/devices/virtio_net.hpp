// VirtioNet: a virtio network card on a tap interface (virtio 1.2, section 5.1).
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adapters/kvm/vmm/devices/device_worker.hpp"
#include "adapters/kvm/vmm/devices/frame_backlog.hpp"
#include "adapters/kvm/vmm/devices/guest_ram.hpp"
#include "adapters/kvm/vmm/devices/mac_address.hpp"
#include "adapters/kvm/vmm/devices/virtio_device.hpp"

namespace migrate::vmm {

/// One thread for both directions. Packets go whole and with their checksums: no offloads. What
/// arrives while the guest has no buffers, or while the device is quiesced, waits in the tap's own
/// queue, from the moment it was opened; past its length (txqueuelen, 1000 by default: 998 frames
/// measured) the newest are dropped there. At a target what
/// came to all (broadcasts) while the guest still ran at the source is dropped meanwhile, from
/// shed_waiting() to keep_waiting(). Nothing else is read before the guest runs, and of a guest
/// that is paused and goes on here all is kept. Frames that come by deliver() go before those in
/// the tap.
class VirtioNet final : public VirtioDevice {
 public:
  /// `name`: "virtio-net.N". `port`: a descriptor that gives and takes one packet a call, not
  /// blocking, each with a header of kPacketHeaderBytes, as Tap's does. It and `ram` must outlive
  /// this. `former`: what the card of an arriving guest was called before it got `mac`; its driver
  /// is told of the change, and the state must be of that one.
  static Result<std::unique_ptr<VirtioNet>> create(
      std::string name, const MacAddress& mac, const GuestRam& ram, int port,
      const std::optional<MacAddress>& former = std::nullopt);
  ~VirtioNet() override;

  struct Counts {
    std::uint64_t received = 0;
    std::uint64_t sent = 0;
    /// In either direction: too long, too short, refused by the tap, too many delivered.
    std::uint64_t dropped = 0;
  };
  /// Since it was made. Any thread.
  [[nodiscard]] Counts counts() const;

  /// A frame for the guest from elsewhere than the port, without a packet's header. Any thread, at
  /// any time: it waits for the guest to run. False: too many wait already, or it is too long or
  /// too short; dropped and counted.
  bool deliver(std::span<const std::byte> frame);
  /// The next frame that waits, delivered or in the port, so that the guest will not get it here;
  /// false when there is none. While quiesced, one thread.
  bool take_waiting(std::vector<std::byte>& frame);
  /// Whether a frame is for this card alone, by its address or the former one, and from another:
  /// what comes to all reaches the guest wherever its network is, and what it has sent comes back
  /// to it nowhere.
  [[nodiscard]] bool is_reached_here_alone(std::span<const std::byte> frame) const;

  /// The guest runs elsewhere: what comes is dropped, on the card's own thread, so that the port's
  /// queue has room when the guest comes. For a card that is new.
  void shed_waiting();
  /// The guest stands there: drops what has come until now, and keeps what comes from now on. Also
  /// for a further attempt. While quiesced otherwise.
  void keep_waiting();
  [[nodiscard]] bool sheds() const { return shedding_; }

  [[nodiscard]] std::string name() const override { return name_; }
  [[nodiscard]] std::uint32_t type() const override;
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::size_t queues() const override { return 2; }
  [[nodiscard]] std::span<const std::byte> config() const override { return config_; }
  [[nodiscard]] bool config_has_changed() const override { return former_mac_.has_value(); }

  void start(VirtioTransport& transport, std::uint64_t features,
             std::span<Virtqueue> queues) override;
  void stop() override { worker_->stop(); }
  void notify(std::size_t) override { worker_->kick(); }
  Status quiesce(SteadyTime deadline) override { return worker_->quiesce(deadline); }
  void resume() override;
  void save(SectionBytes& bytes) const override;
  Status check(SectionCursor& cursor) const override;

 private:
  VirtioNet(std::string name, const MacAddress& mac, const GuestRam& ram, int port,
            const std::optional<MacAddress>& former);

  /// What one direction came to.
  enum class Outcome : std::uint8_t {
    kMore,       ///< Its share is done; there may be more.
    kNoBuffers,  ///< The guest will notify.
    kNoPackets,  ///< The port will be readable.
    kStopped,    ///< Until it is started or resumed.
  };
  DeviceWorker::Next work();
  DeviceWorker::Next drop_some();
  Result<Outcome> send_some();
  Result<Outcome> receive_some();
  [[nodiscard]] ssize_t next_packet();
  [[nodiscard]] ssize_t read_port();
  Result<bool> receive(std::span<std::byte> packet);
  void send(const Chain& chain);
  void complete(Virtqueue& queue, std::uint32_t written);

  const std::string name_;
  const MacAddress mac_;
  const std::optional<MacAddress> former_mac_;
  const GuestRam& ram_;
  const int port_;
  std::array<std::byte, 6> config_{};

  std::atomic<std::uint64_t> received_{0};
  std::atomic<std::uint64_t> sent_{0};
  std::atomic<std::uint64_t> dropped_{0};

  // Set by start(), while the thread stands; then the thread's.
  VirtioTransport* transport_ = nullptr;
  std::span<Virtqueue> queues_;
  bool broken_ = false;
  bool shedding_ = false;  ///< Set while the thread stands, too.
  Chain chain_;
  std::vector<std::byte> packet_;
  std::vector<std::byte> delivered_;

  FrameBacklog backlog_;
  // Last: its thread uses all of the above.
  std::unique_ptr<DeviceWorker> worker_;
};

}  // namespace migrate::vmm
