// A whole migration in one process: a real guest of the reference VMM moves to another VMM over
// loopback TCP, source and target each on a thread of their own.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "adapters/kvm/vmm/migration_hooks.hpp"
#include "bench/measuring.hpp"
#include "migrate/migration.hpp"

namespace migrate::bench {

struct LoopbackSetup {
  std::uint64_t memory_bytes = 1ull << 30;
  std::uint32_t vcpus = 2;
  std::string guest = "idle";
  bool paused = false;  ///< The guest stands during the migration.
  /// How long a running guest runs before it moves, so that its writer has found its rate.
  std::chrono::milliseconds warm_up{300};
  OutgoingOptions options;
};

struct LoopbackRun {
  Report source;
  Report target;
  /// Of the whole process from the call to its end, the guest's own vCPUs left out.
  double cpu_s = 0;
};

/// A guest as `setup` says: filled, and running for the warm-up unless it is to be paused.
[[nodiscard]] std::shared_ptr<vmm::Vmm> make_guest(const LoopbackSetup& setup);

/// Moves a new guest and ends it. Gives up when it does not arrive, or finds errors in its memory.
[[nodiscard]] LoopbackRun migrate_over_loopback(const LoopbackSetup& setup);

}  // namespace migrate::bench
