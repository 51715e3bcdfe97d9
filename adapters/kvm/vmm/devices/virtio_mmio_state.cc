// How a virtio device's state is saved and what is accepted of a saved one.
#include "adapters/kvm/vmm/devices/virtio_mmio.hpp"
#include "adapters/kvm/vmm/section_bytes.hpp"

namespace migrate::vmm {
namespace {

constexpr std::uint32_t kSectionVersion = 1;
constexpr std::uint64_t kSectionBytesMax = 4 << 10;

constexpr std::uint8_t kAgreed = VIRTIO_CONFIG_S_FEATURES_OK;
constexpr std::uint8_t kReady = VIRTIO_CONFIG_S_DRIVER_OK;

Error other_features(const std::string& name) {
  return make_error(ErrorCode::kIncompatible,
                    "the guest uses features of " + name + " that it has not got here")
      .advise(
          "give the device the options it has at the source, and use the same version of "
          "migrate on both hosts");
}

}  // namespace

struct VirtioMmio::Loaded {
  Registers registers;
  Signals signals;
  std::vector<std::uint16_t> next;
};

/// status u8, interrupts u8, needs reset u8, selectors of device features, driver features and
/// queue u32 each, driver features u64, queues u32; of each: ready u8, size u16, next entry u16,
/// addresses of descriptors, available and used ring u64 each; then the device's own.
Status VirtioMmio::save(StateWriter& writer) {
  SectionBytes bytes;
  const Signals now = signals();
  {
    MutexLock lock(mutex_);
    bytes.number(registers_.status).number(now.interrupts);
    bytes.number(static_cast<std::uint8_t>(now.needs_reset));
    bytes.number(registers_.device_features_select).number(registers_.driver_features_select);
    bytes.number(registers_.queue_select).number(registers_.driver_features);
    bytes.number(static_cast<std::uint32_t>(registers_.queues.size()));
    for (std::size_t i = 0; i < queues_.size(); ++i) {
      const QueueRegisters& queue = registers_.queues[i];
      bytes.number(static_cast<std::uint8_t>(queue.ready)).number(queue.layout.size);
      bytes.number(queues_[i].started() ? queues_[i].next() : std::uint16_t{0});
      bytes.number(queue.layout.descriptors.value).number(queue.layout.available.value);
      bytes.number(queue.layout.used.value);
    }
  }
  device_.save(bytes);
  return writer.section({section_name(), kSectionVersion, true}, bytes.take());
}

void VirtioMmio::add_first_pages(FirstPages& pages) {
  MutexLock lock(mutex_);
  for (const Virtqueue& queue : queues_) queue.add_first_pages(pages);
}

Status VirtioMmio::decode_queue(SectionCursor& cursor, Loaded& loaded) const {
  QueueRegisters queue;
  MIGRATE_ASSIGN(const auto ready, cursor.number<std::uint8_t>());
  MIGRATE_ASSIGN(queue.layout.size, cursor.number<std::uint16_t>());
  MIGRATE_ASSIGN(const auto next, cursor.number<std::uint16_t>());
  MIGRATE_ASSIGN(queue.layout.descriptors.value, cursor.number<std::uint64_t>());
  MIGRATE_ASSIGN(queue.layout.available.value, cursor.number<std::uint64_t>());
  MIGRATE_ASSIGN(queue.layout.used.value, cursor.number<std::uint64_t>());
  queue.ready = ready == 1;
  if (ready > 1 || queue.layout.size > kQueueSizeMax) return cursor.bad("has an impossible queue");
  if (queue.ready && !Virtqueue::check(ram_, queue.layout)) {
    return cursor.bad("has a queue outside of memory");
  }
  loaded.registers.queues.push_back(queue);
  loaded.next.push_back(next);
  return {};
}

Result<VirtioMmio::Loaded> VirtioMmio::decode(SectionCursor& cursor) const {
  Loaded loaded;
  Registers& registers = loaded.registers;
  MIGRATE_ASSIGN(registers.status, cursor.number<std::uint8_t>());
  MIGRATE_ASSIGN(loaded.signals.interrupts, cursor.number<std::uint8_t>());
  MIGRATE_ASSIGN(const auto needs_reset, cursor.number<std::uint8_t>());
  MIGRATE_ASSIGN(registers.device_features_select, cursor.number<std::uint32_t>());
  MIGRATE_ASSIGN(registers.driver_features_select, cursor.number<std::uint32_t>());
  MIGRATE_ASSIGN(registers.queue_select, cursor.number<std::uint32_t>());
  MIGRATE_ASSIGN(registers.driver_features, cursor.number<std::uint64_t>());
  MIGRATE_ASSIGN(const auto queues, cursor.number<std::uint32_t>());
  loaded.signals.needs_reset = needs_reset == 1;
  const bool possible = (registers.status & ~kStatusMax) == 0 &&
                        loaded.signals.interrupts <= kInterruptsMax && needs_reset <= 1 &&
                        ((registers.status & kReady) == 0 || (registers.status & kAgreed) != 0);
  if (!possible) return cursor.bad("has an impossible status");
  const bool agreed = (registers.status & kAgreed) != 0;
  if (agreed && (registers.driver_features & ~offered_features()) != 0) {
    return other_features(device_.name());
  }
  if (queues != queues_.size()) return cursor.bad("is of a device with other queues");
  for (std::uint32_t i = 0; i < queues; ++i) MIGRATE_TRY(decode_queue(cursor, loaded));
  MIGRATE_TRY(device_.check(cursor));
  MIGRATE_TRY(cursor.end());
  return loaded;
}

Status VirtioMmio::load(const SectionInfo& section, StateReader& reader) {
  {
    MutexLock lock(mutex_);
    reset();
  }
  if (section.version != kSectionVersion) return StateReader::skip_unknown(section);
  MIGRATE_ASSIGN(const auto body, reader.read_all(kSectionBytesMax));
  SectionCursor cursor(section.name, body);
  MIGRATE_ASSIGN(Loaded loaded, decode(cursor));
  MutexLock lock(mutex_);
  registers_ = std::move(loaded.registers);
  if (live() && device_.config_has_changed()) loaded.signals.interrupts |= VIRTIO_MMIO_INT_CONFIG;
  set_signals(loaded.signals);
  if (live()) start_device(loaded.next);
  return {};
}

}  // namespace migrate::vmm
