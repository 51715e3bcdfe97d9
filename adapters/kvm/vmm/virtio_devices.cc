#include "adapters/kvm/vmm/virtio_devices.hpp"

#include <array>
#include <cstring>

#include "adapters/kvm/vmm/devices/disk_file.hpp"
#include "adapters/kvm/vmm/devices/tap.hpp"
#include "adapters/kvm/vmm/devices/virtio_blk.hpp"
#include "adapters/kvm/vmm/devices/virtio_mmio.hpp"
#include "adapters/kvm/vmm/devices/virtio_net.hpp"
#include "adapters/kvm/vmm/linux/memory_map.hpp"

namespace migrate::vmm {
namespace {

// To unlock disks again that have just been locked.
constexpr std::chrono::seconds kUndoDeadline{5};

}  // namespace

std::shared_ptr<SoftwareBitmap> track_writes_to(std::span<const KvmMemorySlot> slots) {
  std::vector<Region> regions;
  for (const KvmMemorySlot& slot : slots) regions.push_back(region_of(slot));
  return make_software_bitmap(regions);
}

struct VirtioDevices::Disk {
  explicit Disk(DiskFile opened) : file(std::move(opened)) {}
  DiskFile file;
  std::unique_ptr<VirtioBlk> device;
};

struct VirtioDevices::Net {
  explicit Net(Tap opened) : tap(std::move(opened)) {}
  Tap tap;
  std::unique_ptr<VirtioNet> device;
};

/// A device's registers, and the line it interrupts by.
struct VirtioDevices::Card {
  Card(std::unique_ptr<InterruptLine> made, VirtioDevice& device, const GuestRam& ram)
      : line(std::move(made)), registers(device, ram, *line) {}
  std::unique_ptr<InterruptLine> line;
  VirtioMmio registers;
};

VirtioDevices::VirtioDevices() = default;
VirtioDevices::~VirtioDevices() = default;

Result<std::unique_ptr<VirtioDevices>> VirtioDevices::create(const VmmConfig& config,
                                                             const GuestRam& ram,
                                                             const MakeLine& make_line,
                                                             Bus& memory) {
  std::unique_ptr<VirtioDevices> devices(new VirtioDevices());
  if (config.linux_guest) {
    for (const DiskConfig& disk : config.linux_guest->disks) {
      MIGRATE_TRY(devices->add_disk(disk, ram));
    }
  }
  for (const NetConfig& net : config.nets) MIGRATE_TRY(devices->add_net(net, ram));
  for (const auto& disk : devices->disks_) {
    MIGRATE_TRY(devices->add_card(*disk->device, ram, make_line, memory));
  }
  for (const auto& net : devices->nets_) {
    MIGRATE_TRY(devices->add_card(*net->device, ram, make_line, memory));
  }
  return devices;
}

Status VirtioDevices::add_disk(const DiskConfig& config, const GuestRam& ram) {
  const std::string number = std::to_string(disks_.size());
  MIGRATE_ASSIGN(DiskFile file, DiskFile::open({config.path, config.read_only}));
  if (file.sectors() != config.sectors) {
    return make_error(ErrorCode::kIncompatible, "the size of the disk image " + config.path +
                                                    " has changed since it was looked at")
        .advise("do not resize an image that a guest uses");
  }
  auto disk = std::make_unique<Disk>(std::move(file));
  MIGRATE_ASSIGN(disk->device,
                 VirtioBlk::create("virtio-blk." + number, "disk" + number, ram, disk->file));
  disks_.push_back(std::move(disk));
  return {};
}

Status VirtioDevices::add_net(const NetConfig& config, const GuestRam& ram) {
  MIGRATE_ASSIGN(Tap tap, Tap::open(config.tap));
  auto net = std::make_unique<Net>(std::move(tap));
  MIGRATE_CHECK(config.mac.has_value());  // The configuration is complete.
  MIGRATE_ASSIGN(net->device,
                 VirtioNet::create("virtio-net." + std::to_string(nets_.size()), *config.mac, ram,
                                   net->tap.fd(), config.former_mac));
  nets_.push_back(std::move(net));
  return {};
}

Status VirtioDevices::add_card(VirtioDevice& device, const GuestRam& ram, const MakeLine& make_line,
                               Bus& memory) {
  const auto number = static_cast<std::uint32_t>(cards_.size());
  auto card = std::make_unique<Card>(make_line(kVirtioInterrupt + number), device, ram);
  MIGRATE_TRY(memory.add(kVirtioAddress.value + number * VirtioMmio::kBytes, VirtioMmio::kBytes,
                         card->registers));
  cards_.push_back(std::move(card));
  return {};
}

std::vector<MovableDevice*> VirtioDevices::movable() const {
  std::vector<MovableDevice*> devices;
  for (const auto& card : cards_) devices.push_back(&card->registers);
  return devices;
}

void VirtioDevices::reset() {
  constexpr std::array<std::byte, 4> kNone{};
  for (const auto& card : cards_) card->registers.write(VIRTIO_MMIO_STATUS, kNone);
}

void VirtioDevices::add_first_pages(FirstPages& pages) const {
  for (const auto& card : cards_) card->registers.add_first_pages(pages);
}

VirtioNet& VirtioDevices::net(std::size_t card) const { return *nets_[card]->device; }

void VirtioDevices::shed_waiting_frames() const {
  for (const auto& net : nets_) net->device->shed_waiting();
}

void VirtioDevices::stop_shedding() const {
  for (const auto& net : nets_) {
    if (net->device->sheds()) net->device->keep_waiting();
  }
}

void VirtioDevices::keep_waiting_frames() const {
  for (const auto& net : nets_) net->device->keep_waiting();
}

void VirtioDevices::close_ports() {
  for (const auto& net : nets_) net->tap.close();
}

Status VirtioDevices::take_disks() {
  for (const auto& disk : disks_) {
    Status locked = disk->file.lock();
    if (locked) continue;
    // Those before it were written by nobody in between.
    (void)give_up_disks(std::chrono::steady_clock::now() + kUndoDeadline);
    return locked;
  }
  return {};
}

Status VirtioDevices::give_up_disks(SteadyTime deadline) {
  Status all;
  for (const auto& disk : disks_) {
    Status given_up = disk->file.unlock(deadline);
    if (all && !given_up) all = std::move(given_up);
  }
  return all;
}

void VirtioDevices::keep_written_back() {
  for (const auto& disk : disks_) disk->file.keep_written_back();
}

Status VirtioDevices::write_back(SteadyTime deadline) {
  for (const auto& disk : disks_) disk->file.begin_write_back();
  for (const auto& disk : disks_) MIGRATE_TRY(disk->file.write_back(deadline));
  return {};
}

}  // namespace migrate::vmm
