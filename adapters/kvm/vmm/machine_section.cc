#include "adapters/kvm/vmm/machine_section.hpp"

#include <algorithm>
#include <initializer_list>

#include "adapters/kvm/vmm/demo_plan.hpp"
#include "adapters/kvm/vmm/devices/disk_file.hpp"
#include "adapters/kvm/vmm/linux/memory_map.hpp"
#include "adapters/kvm/vmm/linux_config.hpp"
#include "adapters/kvm/vmm/section_bytes.hpp"

namespace migrate::vmm {
namespace {

constexpr std::string_view kDemoSection = "vmm.machine";
constexpr std::string_view kLinuxSection = "vmm.linux";
/// What a network card is reached by. Without cards (a demo guest) or addresses (a Linux) there is
/// none, so that such guests also go to targets that do not know it.
constexpr std::string_view kCardsSection = "vmm.cards";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kAddressTextMax = 64;
// 64 vCPUs with a writer of all options each are 4 KiB; a file's name is at most as long.
constexpr std::size_t kWorkloadTextMax = 16 << 10;
// The largest file a kernel can have.
constexpr std::uint64_t kSectorsMax = (std::uint64_t{1} << 63) / kSectorBytes;

void put_mac(SectionBytes& bytes, const NetConfig& net) {
  MIGRATE_CHECK(net.mac.has_value());
  for (const std::uint8_t byte : net.mac->bytes) bytes.number(byte);
}

/// memory u64, vCPUs u32, command line; disks u32, of each sectors u64 and read-only u8; network
/// cards u32, of each the six bytes of its address.
std::vector<std::byte> encode_linux(const VmmConfig& config) {
  const LinuxGuest& guest = *config.linux_guest;
  SectionBytes bytes;
  bytes.number(config.memory_bytes).number(config.vcpus).text(guest.command_line);
  bytes.number(static_cast<std::uint32_t>(guest.disks.size()));
  for (const DiskConfig& disk : guest.disks) {
    bytes.number(disk.sectors).number(static_cast<std::uint8_t>(disk.read_only));
  }
  bytes.number(static_cast<std::uint32_t>(config.nets.size()));
  for (const NetConfig& net : config.nets) put_mac(bytes, net);
  return bytes.take();
}

/// cards u32; of each the six bytes of its MAC address, addresses u32, each as a text.
std::vector<std::byte> encode_cards(const VmmConfig& config) {
  SectionBytes bytes;
  bytes.number(static_cast<std::uint32_t>(config.nets.size()));
  for (const NetConfig& net : config.nets) {
    put_mac(bytes, net);
    bytes.number(static_cast<std::uint32_t>(net.addresses.size()));
    for (const IpAddress& address : net.addresses) bytes.text(to_text(address));
  }
  return bytes.take();
}

const GuestDescription::Property* find_property(const GuestDescription& description,
                                                std::initializer_list<std::string_view> names) {
  const auto found = std::find_if(
      description.properties.begin(), description.properties.end(), [&](const auto& property) {
        return std::find(names.begin(), names.end(), property.info.name) != names.end();
      });
  return found == description.properties.end() ? nullptr : &*found;
}

/// memory u64, vCPUs u32, workload.
std::vector<std::byte> encode_demo(const VmmConfig& config) {
  SectionBytes bytes;
  bytes.number(config.memory_bytes).number(config.vcpus).text(to_text(config.workload));
  return bytes.take();
}

Result<std::uint32_t> decode_count(SectionCursor& cursor) {
  MIGRATE_ASSIGN(const auto count, cursor.number<std::uint32_t>());
  if (count > kVirtioDevicesMax) return cursor.bad("has too many devices");
  return count;
}

Result<DiskConfig> decode_disk(SectionCursor& cursor) {
  DiskConfig disk;
  MIGRATE_ASSIGN(disk.sectors, cursor.number<std::uint64_t>());
  MIGRATE_ASSIGN(const auto read_only, cursor.number<std::uint8_t>());
  if (disk.sectors == 0 || disk.sectors > kSectorsMax || read_only > 1) {
    return cursor.bad("has an impossible disk");
  }
  disk.read_only = read_only == 1;
  return disk;
}

Result<NetConfig> decode_net(SectionCursor& cursor) {
  MacAddress mac;
  for (std::uint8_t& byte : mac.bytes) {
    MIGRATE_ASSIGN(byte, cursor.number<std::uint8_t>());
  }
  if (!parse_mac(to_text(mac))) return cursor.bad("has an impossible network address");
  NetConfig net;
  net.mac = mac;
  return net;
}

Result<NetConfig> decode_card(SectionCursor& cursor) {
  MIGRATE_ASSIGN(NetConfig net, decode_net(cursor));
  MIGRATE_ASSIGN(const auto addresses, cursor.number<std::uint32_t>());
  if (addresses > kAddressesMax) return cursor.bad("has too many addresses");
  for (std::uint32_t i = 0; i < addresses; ++i) {
    MIGRATE_ASSIGN(const std::string text, cursor.text(kAddressTextMax));
    const auto address = parse_ip(text);
    if (!address) return cursor.bad("has an impossible address");
    net.addresses.push_back(*address);
  }
  return net;
}

/// Empty when the description has none.
Result<std::vector<NetConfig>> decode_cards(const GuestDescription& description) {
  std::vector<NetConfig> nets;
  const auto* const found = find_property(description, {kCardsSection});
  if (found == nullptr) return nets;
  SectionCursor cursor(found->info.name, found->body);
  if (found->info.version != kVersion) return cursor.bad("is of a version not known here");
  MIGRATE_ASSIGN(const std::uint32_t count, decode_count(cursor));
  for (std::uint32_t i = 0; i < count; ++i) {
    MIGRATE_ASSIGN(NetConfig net, decode_card(cursor));
    nets.push_back(std::move(net));
  }
  MIGRATE_TRY(cursor.end());
  return nets;
}

// Those that check what was decoded refuse what makes no sense as they do for a user's words.
Status decode_demo(SectionCursor& cursor, const GuestDescription& description, VmmConfig& config) {
  MIGRATE_ASSIGN(const std::string workload, cursor.text(kWorkloadTextMax));
  MIGRATE_TRY(cursor.end());
  auto parsed = parse_workload(workload);
  if (!parsed) return cursor.bad("makes no sense: " + parsed.error().message);
  config.workload = *std::move(parsed);
  MIGRATE_ASSIGN(config.nets, decode_cards(description));
  if (const auto plan = plan_demo_guest(config, 0); !plan) {
    return cursor.bad("makes no sense: " + plan.error().message);
  }
  return {};
}

/// What is known of cards' addresses, to the cards that the machine has.
Status add_addresses(const GuestDescription& description, std::vector<NetConfig>& nets) {
  MIGRATE_ASSIGN(std::vector<NetConfig> cards, decode_cards(description));
  for (std::size_t i = 0; i < std::min(nets.size(), cards.size()); ++i) {
    if (cards[i].mac == nets[i].mac) nets[i].addresses = std::move(cards[i].addresses);
  }
  return {};
}

Status decode_linux(SectionCursor& cursor, const GuestDescription& description, VmmConfig& config) {
  LinuxGuest& guest = config.linux_guest.emplace();
  MIGRATE_ASSIGN(guest.command_line, cursor.text(kCommandLineRoom));
  MIGRATE_ASSIGN(const std::uint32_t disks, decode_count(cursor));
  for (std::uint32_t i = 0; i < disks; ++i) {
    MIGRATE_ASSIGN(DiskConfig disk, decode_disk(cursor));
    guest.disks.push_back(std::move(disk));
  }
  MIGRATE_ASSIGN(const std::uint32_t nets, decode_count(cursor));
  for (std::uint32_t i = 0; i < nets; ++i) {
    MIGRATE_ASSIGN(NetConfig net, decode_net(cursor));
    config.nets.push_back(std::move(net));
  }
  MIGRATE_TRY(cursor.end());
  MIGRATE_TRY(add_addresses(description, config.nets));
  if (const Status possible = check_linux(config); !possible) {
    return cursor.bad("makes no sense: " + possible.error().message);
  }
  return {};
}

}  // namespace

std::vector<GuestDescription::Property> encode_machine(const VmmConfig& config) {
  std::vector<GuestDescription::Property> properties;
  const bool is_linux = config.linux_guest.has_value();
  if (is_linux) {
    properties.push_back({{std::string(kLinuxSection), kVersion, true}, encode_linux(config)});
  } else {
    properties.push_back({{std::string(kDemoSection), kVersion, true}, encode_demo(config)});
  }
  const bool addressed = std::any_of(config.nets.begin(), config.nets.end(),
                                     [](const NetConfig& net) { return !net.addresses.empty(); });
  if (is_linux ? addressed : !config.nets.empty()) {
    properties.push_back({{std::string(kCardsSection), kVersion, !is_linux}, encode_cards(config)});
  }
  return properties;
}

Result<VmmConfig> decode_machine(const GuestDescription& description) {
  const auto* const found = find_property(description, {kDemoSection, kLinuxSection});
  if (found == nullptr || found->info.version != kVersion) {
    return make_error(ErrorCode::kIncompatible,
                      "the guest is not one of this VMM's, version " + std::to_string(kVersion))
        .advise("use the same version of migrate on both hosts");
  }
  SectionCursor cursor(found->info.name, found->body);
  VmmConfig config;
  config.name = description.name;
  MIGRATE_ASSIGN(config.memory_bytes, cursor.number<std::uint64_t>());
  MIGRATE_ASSIGN(config.vcpus, cursor.number<std::uint32_t>());
  MIGRATE_TRY(found->info.name == kLinuxSection ? decode_linux(cursor, description, config)
                                                : decode_demo(cursor, description, config));
  return config;
}

}  // namespace migrate::vmm
