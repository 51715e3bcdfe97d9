// VirtioBlk: a virtio disk on a raw image (virtio 1.2, section 5.2).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "adapters/kvm/vmm/devices/device_worker.hpp"
#include "adapters/kvm/vmm/devices/disk_file.hpp"
#include "adapters/kvm/vmm/devices/guest_ram.hpp"
#include "adapters/kvm/vmm/devices/virtio_device.hpp"

namespace migrate::vmm {

/// One thread does one request after the other. A flush completes when the data is on stable
/// storage; a driver that has not agreed on flushes gets each write so. Requests the disk cannot do
/// are errors of the request; ones that break the standard's form want a reset.
class VirtioBlk final : public VirtioDevice {
 public:
  /// `name`: "virtio-blk.N"; `identity`: what the guest sees as the disk's serial number, 20 bytes
  /// of it. `ram` and `disk` must outlive it.
  static Result<std::unique_ptr<VirtioBlk>> create(std::string name, std::string identity,
                                                   const GuestRam& ram, const DiskFile& disk);
  ~VirtioBlk() override;

  [[nodiscard]] std::string name() const override { return name_; }
  [[nodiscard]] std::uint32_t type() const override;
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::size_t queues() const override { return 1; }
  [[nodiscard]] std::span<const std::byte> config() const override { return config_; }
  [[nodiscard]] bool config_has_changed() const override { return false; }

  void start(VirtioTransport& transport, std::uint64_t features,
             std::span<Virtqueue> queues) override;
  void stop() override { worker_->stop(); }
  void notify(std::size_t) override { worker_->kick(); }
  Status quiesce(SteadyTime deadline) override { return worker_->quiesce(deadline); }
  void resume() override { worker_->resume(); }
  void save(SectionBytes& bytes) const override;
  Status check(SectionCursor& cursor) const override;

 private:
  static constexpr std::size_t kConfigBytes = 60;
  struct Request;

  VirtioBlk(std::string name, std::string identity, const GuestRam& ram, const DiskFile& disk);
  void fill_config();
  DeviceWorker::Next work();
  Result<bool> work_on_one();
  Result<std::uint32_t> serve(const Chain& chain);
  std::uint8_t serve(const Request& request);
  std::uint8_t transfer(const Request& request);
  std::uint8_t range_command(const Request& request);
  std::uint8_t identify(const Request& request);
  std::uint8_t done(int error, const char* what);
  [[nodiscard]] bool on_disk(std::uint64_t sector, std::uint64_t bytes) const;

  const std::string name_;
  const std::string identity_;
  const GuestRam& ram_;
  const DiskFile& disk_;
  std::array<std::byte, kConfigBytes> config_{};

  // Set by start(), while the thread stands; then the thread's.
  VirtioTransport* transport_ = nullptr;
  Virtqueue* queue_ = nullptr;
  bool flushes_ = false;
  bool broken_ = false;
  bool error_logged_ = false;
  Chain chain_;

  // Last: its thread uses all of the above.
  std::unique_ptr<DeviceWorker> worker_;
};

}  // namespace migrate::vmm
