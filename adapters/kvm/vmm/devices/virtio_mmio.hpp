// VirtioMmio: the registers a virtio device is driven by (virtio 1.2, section 4.2, version 2).
#pragma once

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/kvm/vmm/devices/guest_ram.hpp"
#include "adapters/kvm/vmm/devices/io_device.hpp"
#include "adapters/kvm/vmm/devices/virtio_device.hpp"
#include "adapters/kvm/vmm/devices/virtqueue.hpp"
#include "base/mutex.hpp"

namespace migrate::vmm {

class VirtioMmio final : public IoDevice, public MovableDevice, private VirtioTransport {
 public:
  /// A page, so that the guest can map one device without another.
  static constexpr std::uint64_t kBytes = 0x1000;

  /// All must outlive it.
  VirtioMmio(VirtioDevice& device, const GuestRam& ram, InterruptLine& line);
  ~VirtioMmio() override;
  VirtioMmio(const VirtioMmio&) = delete;
  VirtioMmio& operator=(const VirtioMmio&) = delete;

  void read(std::uint64_t offset, std::span<std::byte> into) override MIGRATE_EXCLUDES(mutex_);
  void write(std::uint64_t offset, std::span<const std::byte> from) override
      MIGRATE_EXCLUDES(mutex_);

  [[nodiscard]] std::string section_name() const override { return "vmm." + device_.name(); }
  Status save(StateWriter& writer) override MIGRATE_EXCLUDES(mutex_);
  Status load(const SectionInfo& section, StateReader& reader) override MIGRATE_EXCLUDES(mutex_);
  Status quiesce(SteadyTime deadline) override { return device_.quiesce(deadline); }
  void resume() override MIGRATE_EXCLUDES(signals_mutex_);

  /// Of its queues, while quiesced.
  void add_first_pages(FirstPages& pages) MIGRATE_EXCLUDES(mutex_);

 private:
  /// Bits a driver may set, and those of interrupts.
  static constexpr std::uint8_t kStatusMax = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                                             VIRTIO_CONFIG_S_DRIVER_OK |
                                             VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED;
  static constexpr std::uint8_t kInterruptsMax = VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG;

  /// What the driver has written of a queue.
  struct QueueRegisters {
    QueueLayout layout;
    bool ready = false;
  };
  /// What the driver has written.
  struct Registers {
    std::uint8_t status = 0;
    std::uint32_t device_features_select = 0;
    std::uint32_t driver_features_select = 0;
    std::uint64_t driver_features = 0;
    std::uint32_t queue_select = 0;
    std::vector<QueueRegisters> queues;
  };
  /// What the device has to tell the driver; from any thread.
  struct Signals {
    std::uint8_t interrupts = 0;
    bool needs_reset = false;
  };

  void interrupt() override MIGRATE_EXCLUDES(signals_mutex_);
  void needs_reset(std::string_view why) override MIGRATE_EXCLUDES(signals_mutex_);
  void acknowledge(std::uint32_t interrupts) MIGRATE_EXCLUDES(signals_mutex_);
  [[nodiscard]] Signals signals() MIGRATE_EXCLUDES(signals_mutex_);
  void set_signals(Signals signals) MIGRATE_EXCLUDES(signals_mutex_);
  void update_line() MIGRATE_REQUIRES(signals_mutex_);

  [[nodiscard]] std::uint32_t read_register(std::uint64_t offset) MIGRATE_EXCLUDES(mutex_);
  void write_register(std::uint64_t offset, std::uint32_t value) MIGRATE_REQUIRES(mutex_);
  void write_queue_register(std::uint64_t offset, std::uint32_t value) MIGRATE_REQUIRES(mutex_);
  void write_status(std::uint8_t value) MIGRATE_REQUIRES(mutex_);
  void write_driver_features(std::uint32_t value) MIGRATE_REQUIRES(mutex_);
  void set_queue_ready(QueueRegisters& queue, bool ready) MIGRATE_REQUIRES(mutex_);
  void reset() MIGRATE_REQUIRES(mutex_);
  /// Queue i goes on at entry next[i]; at 0 without.
  void start_device(std::span<const std::uint16_t> next = {}) MIGRATE_REQUIRES(mutex_);
  [[nodiscard]] std::uint64_t offered_features() const;
  [[nodiscard]] std::uint32_t config_generation() const;
  [[nodiscard]] bool live() const MIGRATE_REQUIRES(mutex_);
  [[nodiscard]] QueueRegisters* selected() MIGRATE_REQUIRES(mutex_);

  struct Loaded;
  Result<Loaded> decode(SectionCursor& cursor) const;
  Status decode_queue(SectionCursor& cursor, Loaded& loaded) const;

  VirtioDevice& device_;
  const GuestRam& ram_;
  InterruptLine& line_;

  // Held while the device starts and stops, so before signals_mutex_.
  Mutex mutex_;
  Registers registers_ MIGRATE_GUARDED_BY(mutex_);
  // The device's own thread uses them while it works; others while it is stopped or quiesced.
  std::vector<Virtqueue> queues_;

  Mutex signals_mutex_;
  Signals signals_ MIGRATE_GUARDED_BY(signals_mutex_);
};

}  // namespace migrate::vmm
