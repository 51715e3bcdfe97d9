// What CRIU and process trees need to be told, on the command lines of `send`, `recv`,
// `checkpoint`, `restore` and `doctor`; and which kinds of guests are taken.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "arrival.hpp"
#include "migrate/containers.hpp"
#include "migrate/result.hpp"
#include "runtime_dir.hpp"

namespace migrate::tool {

/// As given; the same words at both ends.
struct ContainerChoice {
  std::string criu = "criu";
  std::string shim;  ///< Empty: the one that was installed with this program.
  bool no_shim = false;
  std::string tcp = "established";
  std::string link;
  std::vector<std::string> externals;
  std::vector<std::string> synced;  ///< Of send: FROM=TO.
  std::string tracker = "auto";     ///< Of send.
  // Of a target.
  std::string root;
  std::string network;
  std::string output;
};
/// --criu, --criu-shim, --no-criu-shim, --tcp, --container-link, --container-external.
void add_container_source_options(CLI::App& command, ContainerChoice& choice);
/// --tracker, of a tree that leaves.
void add_container_tracker_option(CLI::App& command, ContainerChoice& choice);
/// The best one that this host has for process trees.
[[nodiscard]] TrackerKind best_container_tracker();
/// As add_container_source_options(), and --container-root, --container-network,
/// --container-output.
void add_container_target_options(CLI::App& command, ContainerChoice& choice);
/// The same choice as words, with absolute paths, for the process of a session.
[[nodiscard]] std::vector<std::string> container_arguments(const ContainerChoice& choice);

/// Without root process and name. Makes the folder in which CRIU's images stand.
[[nodiscard]] Result<ContainerSourceOptions> container_source_options(const ContainerChoice& choice,
                                                                      const RuntimeDir& folder);

/// Which kinds of guests are taken.
struct AcceptChoice {
  bool vm = true;
  bool container = false;
  ContainerChoice containers;
};
/// "vm", "container" or "vm,container".
[[nodiscard]] Status parse_accept(const std::string& text, AcceptChoice& choice);
[[nodiscard]] std::string to_text(const AcceptChoice& choice);

/// What takes them. `vm`: what a virtual machine gets from this host.
[[nodiscard]] Result<std::unique_ptr<Arrival>> make_arrival(const AcceptChoice& choice,
                                                            const vmm::ArrivalConfig& vm,
                                                            const RuntimeDir& folder);

}  // namespace migrate::tool
