// What a guest that arrives, by `recv` or `restore`, gets from this host, on their command lines.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "machine_options.hpp"
#include "migrate/result.hpp"

namespace migrate::tool {

/// As given.
struct ArrivalOptions {
  std::string name;
  std::string tracker = "auto";
  std::string huge_pages;
  MachineOptions machine;
};
/// --name, --tracker, --huge-pages, --disk, --net, --console, --kernel, --initrd.
void add_arrival_options(CLI::App& command, ArrivalOptions& options);

/// Without the name, which is checked where it is wanted. `machine` is what was read of
/// `options.machine`.
[[nodiscard]] Result<vmm::ArrivalConfig> parse_arrival(const ArrivalOptions& options,
                                                       const MachineChoice& machine);

}  // namespace migrate::tool
