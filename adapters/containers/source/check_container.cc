// The preflight: what would block a migration, before anything is done.
#include <sys/utsname.h>

#include <chrono>
#include <cstdio>
#include <tuple>

#include "adapters/containers/criu/criu_worker.hpp"
#include "adapters/containers/source/obstacles.hpp"
#include "base/guarded.hpp"

namespace migrate::containers {
namespace {

constexpr std::chrono::seconds kAnswerMax{60};

/// Kernels from this one on give answers that older CRIU do not read.
bool needs_newer_criu(const CriuVersion& version) {
  utsname system{};
  ::uname(&system);
  int major = 0;
  int minor = 0;
  if (std::sscanf(system.release, "%d.%d", &major, &minor) != 2) return false;
  return std::tie(major, minor) >= std::make_tuple(6, 16) &&
         std::tie(version.major, version.minor) < std::make_tuple(4, 2);
}

void add(const Error& error, Findings& findings) {
  findings.push_back({true, error.message, error.remedy});
}

void find_in_criu(const ContainerSourceOptions& options, Findings& findings) {
  CriuLaunch launch;
  launch.program = options.criu;
  auto worker = CriuWorker::launch(launch);
  if (!worker) return add(worker.error(), findings);
  const auto version = (*worker)->version(std::chrono::steady_clock::now() + kAnswerMax);
  if (!version) return add(version.error(), findings);
  if (const Status fit = check_criu_version(*version); !fit) add(fit.error(), findings);
  if (needs_newer_criu(*version) && has_internet_sockets(list_descendants(options.root))) {
    findings.push_back({true,
                        "the tree has network sockets, which CRIU " + version->text +
                            " cannot read on this kernel",
                        "install CRIU 4.2 or newer on both hosts"});
  }
}

}  // namespace
}  // namespace migrate::containers

namespace migrate {

Result<std::vector<ContainerFinding>> check_container(const ContainerSourceOptions& options) {
  return guarded([&]() -> Result<std::vector<ContainerFinding>> {
    const auto root = containers::look_at_process(options.root);
    if (!root || root->zombie) {
      return make_error(ErrorCode::kNotFound,
                        "there is no process " + std::to_string(options.root));
    }
    std::vector<ContainerFinding> findings = containers::find_obstacles(options);
    containers::find_in_criu(options, findings);
    return findings;
  });
}

}  // namespace migrate
