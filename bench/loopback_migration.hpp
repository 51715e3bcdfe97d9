// A whole migration in one process: a real guest of the reference VMM moves to another VMM over
// loopback TCP or another link, source and target each on a thread of their own.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "adapters/kvm/vmm/migration_hooks.hpp"
#include "bench/link.hpp"
#include "bench/measuring.hpp"
#include "migrate/migration.hpp"

namespace migrate::bench {

struct LoopbackSetup {
  std::uint64_t memory_bytes = 1ull << 30;
  std::uint32_t vcpus = 2;
  std::string guest = "idle";
  bool paused = false;  ///< The guest stands during the migration.
  /// Every page is there, also those of zeros: nothing is a hole, all of it is looked at.
  bool touched = false;
  const Link* link = nullptr;  ///< nullptr: loopback.
  /// Afterwards both guests' memory is compared byte for byte. Only for a paused one.
  bool compare = false;
  /// How long a running guest runs before it moves, so that its writer has found its rate.
  std::chrono::milliseconds warm_up{300};
  /// So much memory is kept warm for the target: see WarmMemory.
  std::uint64_t warm_bytes = 0;
  OutgoingOptions options;
  /// Puts something before the guest at the target; empty: nothing.
  std::function<std::unique_ptr<TargetGuest>(std::unique_ptr<TargetGuest>)> wrap_target;
};

struct LoopbackRun {
  Report source;
  Report target;
  /// Of the whole process from the call to its end, the guest's own vCPUs left out.
  double cpu_s = 0;
};

/// A guest as `setup` says: filled, and running for the warm-up unless it is to be paused.
[[nodiscard]] std::shared_ptr<vmm::Vmm> make_guest(const LoopbackSetup& setup);

/// All of a guest's memory; the guest must stay.
[[nodiscard]] std::span<std::byte> memory_of(const vmm::Vmm& guest);

/// Moves `from`, made for the same setup, and ends it. Gives up when it does not arrive, or finds
/// errors in its memory.
[[nodiscard]] LoopbackRun move_guest(const LoopbackSetup& setup,
                                     const std::shared_ptr<vmm::Vmm>& from);

/// move_guest() of a new one.
[[nodiscard]] LoopbackRun migrate_over_loopback(const LoopbackSetup& setup);

}  // namespace migrate::bench
