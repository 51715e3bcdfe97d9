// What of a guest's machine is this host's: --disk, --net, --console, and the kernel it (re)starts
// with. `run` and `recv` have them in common.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "adapters/kvm/vmm/vmm_config.hpp"
#include "migrate/result.hpp"

namespace migrate::tool {

/// As given.
struct MachineOptions {
  std::vector<std::string> disks;
  std::vector<std::string> nets;
  std::string console;
  std::string kernel;
  std::string initrd;
};
/// --disk, --net and --console; those that are a Linux's alone only beside `kernel`, unless that is
/// null.
void add_machine_options(CLI::App& command, MachineOptions& options, CLI::Option* kernel);

/// A card, and where it is announced.
struct NetChoice : vmm::NetConfig {
  std::string announce;  ///< An interface of this host; empty: none is named for this card.
};

/// Read from the words: paths are absolute, for a session's process may stand elsewhere.
struct MachineChoice {
  std::vector<vmm::DiskConfig> disks;
  std::vector<NetChoice> nets;
  std::optional<vmm::ConsoleConfig> console;
  std::string kernel;
  std::string initrd;
};
/// kInvalidArgument with what would do; whether files and interfaces are there shows when the
/// machine is made.
[[nodiscard]] Result<MachineChoice> parse_machine(const MachineOptions& options);

/// "FILE" or "FILE,ro".
[[nodiscard]] Result<vmm::DiskConfig> parse_disk(const std::string& text);
/// "tap=IF", "tap=IF,mac=52:54:00:12:34:56", "vlan=N", "announce=IF", and any number of "ip=A", of
/// either protocol.
[[nodiscard]] Result<NetChoice> parse_net(const std::string& text);
/// The cards alone, for the machine.
[[nodiscard]] std::vector<vmm::NetConfig> cards_of(const std::vector<NetChoice>& nets);
/// "stdio", "pty" or "file:PATH"; nullopt for "none" and nothing.
[[nodiscard]] Result<std::optional<vmm::ConsoleConfig>> parse_console(const std::string& text);

/// The same choice as words, for the process of a session.
[[nodiscard]] std::vector<std::string> machine_arguments(const MachineChoice& choice);

}  // namespace migrate::tool
