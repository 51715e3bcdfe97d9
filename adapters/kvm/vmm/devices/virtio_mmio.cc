#include "adapters/kvm/vmm/devices/virtio_mmio.hpp"

// Leaves out functions that are not C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "base/log.hpp"

namespace migrate::vmm {
namespace {

constexpr std::uint32_t kMagic = 0x7472'6976;  // "virt"
constexpr std::uint32_t kVersion = 2;
constexpr std::uint32_t kVendor = 0x4554'4d47;  // "GMTE": any number will do, drivers do not look.
constexpr std::uint32_t kNoSharedMemory = ~0u;

constexpr std::uint64_t kRingFeatures = std::uint64_t{1} << VIRTIO_F_VERSION_1 |
                                        std::uint64_t{1} << VIRTIO_RING_F_INDIRECT_DESC |
                                        std::uint64_t{1} << VIRTIO_RING_F_EVENT_IDX;

bool has(std::uint64_t features, unsigned bit) { return (features >> bit & 1) != 0; }

std::uint32_t half(std::uint64_t value, std::uint32_t select) {
  if (select > 1) return 0;
  return static_cast<std::uint32_t>(value >> (32 * select));
}

void set_low(GuestAddr& address, std::uint32_t value) {
  address.value = (address.value & ~0xffff'ffffull) | value;
}
void set_high(GuestAddr& address, std::uint32_t value) {
  address.value = (address.value & 0xffff'ffffull) | std::uint64_t{value} << 32;
}

}  // namespace

VirtioMmio::VirtioMmio(VirtioDevice& device, const GuestRam& ram, InterruptLine& line)
    : device_(device), ram_(ram), line_(line), queues_(device.queues(), Virtqueue(ram)) {
  registers_.queues.resize(device.queues());
}

VirtioMmio::~VirtioMmio() { device_.stop(); }

std::uint64_t VirtioMmio::offered_features() const { return device_.features() | kRingFeatures; }

bool VirtioMmio::live() const { return (registers_.status & VIRTIO_CONFIG_S_DRIVER_OK) != 0; }

VirtioMmio::QueueRegisters* VirtioMmio::selected() {
  const std::uint32_t queue = registers_.queue_select;
  return queue < registers_.queues.size() ? &registers_.queues[queue] : nullptr;
}

void VirtioMmio::read(std::uint64_t offset, std::span<std::byte> into) {
  std::fill(into.begin(), into.end(), std::byte{0});
  if (offset >= VIRTIO_MMIO_CONFIG) {
    const auto config = device_.config();
    const std::uint64_t from = offset - VIRTIO_MMIO_CONFIG;
    if (from >= config.size()) return;
    const auto count = std::min<std::uint64_t>(into.size(), config.size() - from);
    std::memcpy(into.data(), config.data() + from, count);
    return;
  }
  if (into.size() != 4 || offset % 4 != 0) return;
  const std::uint32_t value = read_register(offset);
  std::memcpy(into.data(), &value, sizeof value);
}

void VirtioMmio::write(std::uint64_t offset, std::span<const std::byte> from) {
  if (from.size() != 4 || offset % 4 != 0 || offset >= VIRTIO_MMIO_CONFIG) return;
  std::uint32_t value = 0;
  std::memcpy(&value, from.data(), sizeof value);
  if (offset == VIRTIO_MMIO_INTERRUPT_ACK) return acknowledge(value);
  MutexLock lock(mutex_);
  write_register(offset, value);
}

std::uint32_t VirtioMmio::read_register(std::uint64_t offset) {
  // As its acknowledgement: an interrupt does not wait for another vCPU that resets the device.
  if (offset == VIRTIO_MMIO_INTERRUPT_STATUS) return signals().interrupts;
  MutexLock lock(mutex_);
  const QueueRegisters* queue = selected();
  switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
      return kMagic;
    case VIRTIO_MMIO_VERSION:
      return kVersion;
    case VIRTIO_MMIO_DEVICE_ID:
      return device_.type();
    case VIRTIO_MMIO_VENDOR_ID:
      return kVendor;
    case VIRTIO_MMIO_DEVICE_FEATURES:
      return half(offered_features(), registers_.device_features_select);
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
      return queue != nullptr ? kQueueSizeMax : 0;
    case VIRTIO_MMIO_QUEUE_READY:
      return queue != nullptr && queue->ready ? 1 : 0;
    case VIRTIO_MMIO_STATUS:
      return registers_.status | (signals().needs_reset ? VIRTIO_CONFIG_S_NEEDS_RESET : 0u);
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
      return kNoSharedMemory;
    case VIRTIO_MMIO_CONFIG_GENERATION:
      return config_generation();
    default:
      return 0;
  }
}

/// So that a driver which was reading configuration space when it became another reads it again. It
/// changes nowhere but on the way to another machine, where no counter would go on: the same for
/// the same space.
std::uint32_t VirtioMmio::config_generation() const {
  const auto config = device_.config();
  const std::string_view text(reinterpret_cast<const char*>(config.data()), config.size());
  return static_cast<std::uint32_t>(std::hash<std::string_view>{}(text));
}

void VirtioMmio::write_register(std::uint64_t offset, std::uint32_t value) {
  switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
      registers_.device_features_select = value;
      return;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
      registers_.driver_features_select = value;
      return;
    case VIRTIO_MMIO_DRIVER_FEATURES:
      return write_driver_features(value);
    case VIRTIO_MMIO_QUEUE_SEL:
      registers_.queue_select = value;
      return;
    case VIRTIO_MMIO_QUEUE_NOTIFY:
      if (live() && value < queues_.size()) device_.notify(value);
      return;
    case VIRTIO_MMIO_STATUS:
      return write_status(static_cast<std::uint8_t>(value));
    default:
      return write_queue_register(offset, value);
  }
}

void VirtioMmio::write_queue_register(std::uint64_t offset, std::uint32_t value) {
  QueueRegisters* const queue = selected();
  if (queue == nullptr) return;
  if (offset == VIRTIO_MMIO_QUEUE_READY) return set_queue_ready(*queue, (value & 1) != 0);
  if (queue->ready) return;  // It lies where it lies.
  switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
      queue->layout.size = value <= kQueueSizeMax ? static_cast<std::uint16_t>(value) : 0;
      return;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
      return set_low(queue->layout.descriptors, value);
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
      return set_high(queue->layout.descriptors, value);
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
      return set_low(queue->layout.available, value);
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
      return set_high(queue->layout.available, value);
    case VIRTIO_MMIO_QUEUE_USED_LOW:
      return set_low(queue->layout.used, value);
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
      return set_high(queue->layout.used, value);
    default:
      return;
  }
}

void VirtioMmio::set_queue_ready(QueueRegisters& queue, bool ready) {
  if (queue.ready == ready) return;
  // The standard has queues set up before DRIVER_OK and taken down by a reset.
  if (live()) return needs_reset("it changed a queue of a running device");
  if (ready) {
    if (const Status checked = Virtqueue::check(ram_, queue.layout); !checked) {
      return needs_reset(checked.error().message);
    }
  }
  queue.ready = ready;
}

void VirtioMmio::write_driver_features(std::uint32_t value) {
  if ((registers_.status & VIRTIO_CONFIG_S_FEATURES_OK) != 0) return;
  const std::uint32_t select = registers_.driver_features_select;
  if (select > 1) return;
  const std::uint64_t other = half(registers_.driver_features, 1 - select);
  registers_.driver_features =
      select == 0 ? other << 32 | value : std::uint64_t{value} << 32 | other;
}

/// Bits are added one after the other; what a driver takes back it takes back by a reset.
void VirtioMmio::write_status(std::uint8_t value) {
  if (value == 0) return reset();
  auto added = static_cast<std::uint8_t>(value & kStatusMax & ~registers_.status);
  if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0) {
    const std::uint64_t wanted = registers_.driver_features;
    const bool good = has(wanted, VIRTIO_F_VERSION_1) && (wanted & ~offered_features()) == 0;
    if (!good) added &= static_cast<std::uint8_t>(~VIRTIO_CONFIG_S_FEATURES_OK);
  }
  registers_.status |= added & static_cast<std::uint8_t>(~VIRTIO_CONFIG_S_DRIVER_OK);
  if ((added & VIRTIO_CONFIG_S_DRIVER_OK) == 0) return;
  if ((registers_.status & VIRTIO_CONFIG_S_FEATURES_OK) == 0) {
    return needs_reset("it began without agreeing on features");
  }
  registers_.status |= VIRTIO_CONFIG_S_DRIVER_OK;
  start_device();
}

void VirtioMmio::start_device(std::span<const std::uint16_t> next) {
  const std::uint64_t features = registers_.driver_features;
  const Virtqueue::Features ring{has(features, VIRTIO_RING_F_INDIRECT_DESC),
                                 has(features, VIRTIO_RING_F_EVENT_IDX)};
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    const QueueRegisters& queue = registers_.queues[i];
    if (queue.ready)
      queues_[i].start(queue.layout, ring, next.empty() ? std::uint16_t{0} : next[i]);
  }
  if (!signals().needs_reset) device_.start(*this, features, queues_);
}

void VirtioMmio::reset() {
  device_.stop();
  for (Virtqueue& queue : queues_) queue.stop();
  registers_ = {};
  registers_.queues.resize(queues_.size());
  set_signals({});
}

void VirtioMmio::interrupt() {
  MutexLock lock(signals_mutex_);
  signals_.interrupts |= VIRTIO_MMIO_INT_VRING;
  update_line();
}

void VirtioMmio::needs_reset(std::string_view why) {
  MutexLock lock(signals_mutex_);
  if (signals_.needs_reset) return;
  signals_.needs_reset = true;
  signals_.interrupts |= VIRTIO_MMIO_INT_CONFIG;
  update_line();
  log_line(LogLevel::kWarning, device_.name() + " stops until it is reset: " + std::string(why));
}

void VirtioMmio::acknowledge(std::uint32_t interrupts) {
  MutexLock lock(signals_mutex_);
  signals_.interrupts &= static_cast<std::uint8_t>(~interrupts);
  update_line();
}

VirtioMmio::Signals VirtioMmio::signals() {
  MutexLock lock(signals_mutex_);
  return signals_;
}

void VirtioMmio::set_signals(Signals signals) {
  MutexLock lock(signals_mutex_);
  signals_ = signals;
  update_line();
}

void VirtioMmio::update_line() { line_.set(signals_.interrupts != 0); }

void VirtioMmio::resume() {
  {
    MutexLock lock(signals_mutex_);
    update_line();
  }
  device_.resume();
}

}  // namespace migrate::vmm
