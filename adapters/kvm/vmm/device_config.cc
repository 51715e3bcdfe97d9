#include "adapters/kvm/vmm/device_config.hpp"

#include <functional>

#include "adapters/kvm/vmm/devices/disk_file.hpp"
#include "base/random_bytes.hpp"
#include "migrate/options.hpp"

namespace migrate::vmm {
namespace {

/// Of the range that hypervisors' users know; the same for the same guest and card.
MacAddress mac_of(const std::string& guest, std::size_t card) {
  const std::size_t number = std::hash<std::string>{}(guest + '/' + std::to_string(card));
  MacAddress mac{{0x52, 0x54, 0x00}};
  for (std::size_t i = 3; i < mac.bytes.size(); ++i) {
    mac.bytes[i] = static_cast<std::uint8_t>(number >> (8 * i));
  }
  return mac;
}

/// Locally administered, of one card; 40 bits, so that thousands of copies on one network do not
/// meet.
Result<MacAddress> make_mac() {
  MacAddress mac;
  MIGRATE_TRY(fill_random(std::as_writable_bytes(std::span(mac.bytes))));
  mac.bytes[0] = 0x52;
  return mac;
}

std::string text_of(const DiskConfig& disk) {
  return format_size(disk.sectors * kSectorBytes) + (disk.read_only ? ", read-only" : "");
}

std::string text_of(const NetConfig& net) { return net.mac ? to_text(*net.mac) : "any"; }

/// "2 disks (1 GiB; 20 MiB, read-only)".
template <typename Device>
std::string list_of(const std::vector<Device>& devices, const std::string& what) {
  std::string text = std::to_string(devices.size()) + ' ' + what + (devices.size() == 1 ? "" : "s");
  for (std::size_t i = 0; i < devices.size(); ++i) {
    text += (i == 0 ? " (" : "; ") + text_of(devices[i]);
  }
  return text + (devices.empty() ? "" : ")");
}

Status renew_mac(NetConfig& net, const std::optional<MacAddress>& given) {
  net.former_mac = net.mac;
  if (given) {
    net.mac = given;
  } else {
    MIGRATE_ASSIGN(net.mac, make_mac());
  }
  return {};
}

}  // namespace

Error other_machine(std::string message, std::string remedy) {
  return make_error(ErrorCode::kIncompatible, std::move(message)).advise(std::move(remedy));
}

void complete_nets(VmmConfig& config) {
  for (std::size_t i = 0; i < config.nets.size(); ++i) {
    NetConfig& net = config.nets[i];
    if (!net.mac) net.mac = mac_of(config.name, i);
  }
}

Status fit_disks(std::vector<DiskConfig>& disks, const std::vector<DiskConfig>& here) {
  if (here.size() != disks.size()) {
    return other_machine(
        "the guest has " + list_of(disks, "disk") + ", and " + std::to_string(here.size()) +
            (here.size() == 1 ? " is" : " are") + " given here",
        "give the receiving side --disk FILE[,ro] for each of them, in the source's order");
  }
  for (std::size_t i = 0; i < disks.size(); ++i) {
    if (disks[i].read_only != here[i].read_only) {
      return other_machine("disk " + std::to_string(i + 1) + " of the guest is " +
                               (disks[i].read_only ? "read-only" : "writable") + ", and " +
                               here[i].path + " is given " +
                               (here[i].read_only ? "read-only" : "writable") + " here",
                           std::string(disks[i].read_only ? "add" : "leave out") +
                               " ,ro after its name on the receiving side");
    }
    MIGRATE_ASSIGN(const DiskFile file, DiskFile::open({here[i].path, here[i].read_only}));
    if (file.sectors() != disks[i].sectors) {
      return other_machine("disk " + std::to_string(i + 1) + " of the guest has " +
                               std::to_string(disks[i].sectors) + " sectors, and " + here[i].path +
                               " has " + std::to_string(file.sectors()) + " here",
                           "give the image that the source uses, on storage that both hosts share");
    }
    disks[i].path = here[i].path;
  }
  return {};
}

Status fit_nets(std::vector<NetConfig>& nets, const ArrivalConfig& host) {
  const std::vector<NetConfig>& here = host.nets;
  if (here.size() != nets.size()) {
    return other_machine(
        "the guest has " + list_of(nets, "network card") + ", and " + std::to_string(here.size()) +
            (here.size() == 1 ? " is" : " are") + " given here",
        "give the receiving side --net tap=NAME for each of them, in the source's order");
  }
  for (std::size_t i = 0; i < nets.size(); ++i) {
    if (host.new_identity) {
      MIGRATE_TRY(renew_mac(nets[i], here[i].mac));
    } else if (here[i].mac && here[i].mac != nets[i].mac) {
      return other_machine("network card " + std::to_string(i + 1) +
                               " of the guest has the address " + text_of(nets[i]) + ", and " +
                               text_of(here[i]) + " is given here",
                           "leave out mac= on the receiving side: the guest keeps its address");
    }
    nets[i].tap = here[i].tap;
    if (!here[i].addresses.empty()) nets[i].addresses = here[i].addresses;
  }
  return {};
}

}  // namespace migrate::vmm
