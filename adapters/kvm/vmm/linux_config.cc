#include "adapters/kvm/vmm/linux_config.hpp"

#include "adapters/kvm/vmm/device_config.hpp"
#include "adapters/kvm/vmm/devices/disk_file.hpp"
#include "adapters/kvm/vmm/linux/memory_map.hpp"
#include "migrate/options.hpp"

namespace migrate::vmm {
namespace {

Error refused(std::string message, std::string remedy) {
  return make_error(ErrorCode::kInvalidArgument, std::move(message)).advise(std::move(remedy));
}

}  // namespace

Status check_linux(const VmmConfig& config) {
  if (config.memory_bytes < kMemoryMin || config.memory_bytes > kMemoryMax ||
      config.memory_bytes % kMemoryStep != 0) {
    return refused("a guest cannot have " + format_size(config.memory_bytes) + " of memory",
                   "give a multiple of " + format_size(kMemoryStep) + " from " +
                       format_size(kMemoryMin) + " to " + format_size(kMemoryMax));
  }
  if (config.vcpus == 0 || config.vcpus > kVcpusMax) {
    return refused("a guest cannot have " + std::to_string(config.vcpus) + " vCPUs",
                   "give 1 to " + std::to_string(kVcpusMax));
  }
  const std::size_t devices = config.linux_guest->disks.size() + config.nets.size();
  if (devices > kVirtioDevicesMax) {
    return refused("a guest cannot have " + std::to_string(devices) + " disks and network cards",
                   "give at most " + std::to_string(kVirtioDevicesMax) + " of both together");
  }
  return {};
}

Status complete_linux(VmmConfig& config) {
  MIGRATE_TRY(check_linux(config));
  for (DiskConfig& disk : config.linux_guest->disks) {
    MIGRATE_ASSIGN(const DiskFile file, DiskFile::open({disk.path, disk.read_only}));
    disk.sectors = file.sectors();
  }
  complete_nets(config);
  return {};
}

Status fit_linux(VmmConfig& config, const ArrivalConfig& host) {
  LinuxGuest& guest = *config.linux_guest;
  MIGRATE_TRY(fit_disks(guest.disks, host.disks));
  MIGRATE_TRY(fit_nets(config.nets, host));
  guest.console = host.console;
  guest.kernel = host.kernel;
  guest.initrd = host.initrd;
  return {};
}

}  // namespace migrate::vmm
