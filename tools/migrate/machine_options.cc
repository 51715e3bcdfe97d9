#include "machine_options.hpp"

#include <algorithm>
#include <filesystem>
#include <string_view>

namespace migrate::tool {
namespace {

constexpr std::string_view kReadOnly = ",ro";
constexpr std::string_view kTap = "tap=";
constexpr std::string_view kMac = "mac=";
constexpr std::string_view kIp = "ip=";
constexpr std::string_view kVlan = "vlan=";
constexpr std::string_view kAnnounce = "announce=";
constexpr std::string_view kFile = "file:";

std::string absolute(const std::string& path) {
  return path.empty() ? path : std::filesystem::absolute(path).string();
}

Error bad_option(const char* option, const std::string& text, const std::string& why,
                 const std::string& remedy) {
  return make_error(ErrorCode::kInvalidArgument, std::string(option) + ": '" + text + "' " + why)
      .advise(remedy);
}

Status add_address(vmm::NetConfig& net, const vmm::IpAddress& address, const std::string& text) {
  if (std::find(net.addresses.begin(), net.addresses.end(), address) != net.addresses.end()) {
    return bad_option("--net", text, "names " + vmm::to_text(address) + " twice", "name it once");
  }
  if (net.addresses.size() == vmm::kAddressesMax) {
    return bad_option("--net", text, "names too many addresses",
                      "give at most " + std::to_string(vmm::kAddressesMax) + " for a card");
  }
  net.addresses.push_back(address);
  return {};
}

std::string words_of(const NetChoice& net) {
  std::string words = std::string(kTap) + net.tap;
  if (net.mac) words.append(",").append(kMac).append(vmm::to_text(*net.mac));
  for (const vmm::IpAddress& address : net.addresses) {
    words.append(",").append(kIp).append(vmm::to_text(address));
  }
  if (net.vlan) words.append(",").append(kVlan).append(std::to_string(*net.vlan));
  if (!net.announce.empty()) words.append(",").append(kAnnounce).append(net.announce);
  return words;
}

}  // namespace

void add_machine_options(CLI::App& command, MachineOptions& options, CLI::Option* kernel) {
  for (CLI::Option* option :
       {command
            .add_option("--disk", options.disks,
                        "A raw image or block device, once for each of the guest's disks")
            ->type_name("FILE[,ro]")
            ->allow_extra_args(false),
        command
            .add_option("--console", options.console,
                        "Where the guest's serial console ends: stdio, pty, file:PATH or none")
            ->type_name("WHERE")}) {
    if (kernel != nullptr) option->needs(kernel);
  }
  command
      .add_option("--net", options.nets,
                  "A tap interface that is there, once for each of the guest's network cards, and "
                  "what the guest is reached by there")
      ->type_name("tap=IF[,mac=M][,ip=A]...[,vlan=N][,announce=IF]")
      ->allow_extra_args(false);
}

Result<vmm::DiskConfig> parse_disk(const std::string& text) {
  vmm::DiskConfig disk;
  disk.path = text;
  disk.read_only = text.size() > kReadOnly.size() && text.ends_with(kReadOnly);
  if (disk.read_only) disk.path.resize(text.size() - kReadOnly.size());
  if (disk.path.empty() || disk.path == kReadOnly) {
    return bad_option("--disk", text, "names no file", "give FILE, or FILE,ro for one only read");
  }
  disk.path = absolute(disk.path);
  return disk;
}

Result<NetChoice> parse_net(const std::string& text) {
  const std::string remedy = "give tap=IF, or tap=IF,mac=52:54:00:12:34:56,ip=192.0.2.7";
  NetChoice net;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
    if (part.starts_with(kTap) && net.tap.empty()) {
      net.tap = part.substr(kTap.size());
    } else if (part.starts_with(kMac) && !net.mac) {
      MIGRATE_ASSIGN(net.mac, vmm::parse_mac(part.substr(kMac.size())));
    } else if (part.starts_with(kIp)) {
      MIGRATE_ASSIGN(const vmm::IpAddress address, vmm::parse_ip(part.substr(kIp.size())));
      MIGRATE_TRY(add_address(net, address, text));
    } else if (part.starts_with(kVlan) && !net.vlan) {
      MIGRATE_ASSIGN(net.vlan, parse_vlan(part.substr(kVlan.size())));
    } else if (part.starts_with(kAnnounce) && part != kAnnounce && net.announce.empty()) {
      net.announce = part.substr(kAnnounce.size());
    } else {
      return bad_option("--net", text, "is not understood at '" + std::string(part) + "'", remedy);
    }
  }
  if (net.tap.empty()) return bad_option("--net", text, "names no tap interface", remedy);
  return net;
}

std::vector<vmm::NetConfig> cards_of(const std::vector<NetChoice>& nets) {
  return {nets.begin(), nets.end()};
}

Result<std::optional<vmm::ConsoleConfig>> parse_console(const std::string& text) {
  if (text.empty() || text == "none") return std::optional<vmm::ConsoleConfig>();
  vmm::ConsoleConfig console;
  if (text == "stdio") {
    console.kind = vmm::ConsoleKind::kStandard;
  } else if (text == "pty") {
    console.kind = vmm::ConsoleKind::kTerminal;
  } else if (text.starts_with(kFile) && text.size() > kFile.size()) {
    console.kind = vmm::ConsoleKind::kFile;
    console.path = absolute(text.substr(kFile.size()));
  } else {
    return bad_option("--console", text, "is no place for a console",
                      "give stdio, pty, file:PATH or none");
  }
  return std::optional(std::move(console));
}

Result<MachineChoice> parse_machine(const MachineOptions& options) {
  MachineChoice choice;
  for (const std::string& text : options.disks) {
    MIGRATE_ASSIGN(auto disk, parse_disk(text));
    choice.disks.push_back(std::move(disk));
  }
  for (const std::string& text : options.nets) {
    MIGRATE_ASSIGN(auto net, parse_net(text));
    choice.nets.push_back(std::move(net));
  }
  MIGRATE_ASSIGN(choice.console, parse_console(options.console));
  choice.kernel = absolute(options.kernel);
  choice.initrd = absolute(options.initrd);
  return choice;
}

std::vector<std::string> machine_arguments(const MachineChoice& choice) {
  std::vector<std::string> words;
  const auto add = [&words](const char* option, std::string value) {
    words.emplace_back(option);
    words.push_back(std::move(value));
  };
  for (const vmm::DiskConfig& disk : choice.disks) {
    add("--disk", disk.path + (disk.read_only ? std::string(kReadOnly) : ""));
  }
  for (const NetChoice& net : choice.nets) {
    add("--net", words_of(net));
  }
  if (choice.console) {
    switch (choice.console->kind) {
      case vmm::ConsoleKind::kStandard:
        add("--console", "stdio");
        break;
      case vmm::ConsoleKind::kTerminal:
        add("--console", "pty");
        break;
      case vmm::ConsoleKind::kFile:
        add("--console", std::string(kFile) + choice.console->path);
        break;
    }
  }
  if (!choice.kernel.empty()) add("--kernel", choice.kernel);
  if (!choice.initrd.empty()) add("--initrd", choice.initrd);
  return words;
}

}  // namespace migrate::tool
