// What a restore fills from where, checked before CRIU is started: memory that nobody has would
// turn to zeros in silence.
#pragma once

#include <span>
#include <vector>

#include "adapters/containers/criu/criu_images.hpp"
#include "adapters/containers/target/lazy_fill.hpp"
#include "adapters/containers/target/restore_folder.hpp"
#include "adapters/containers/target/staged_memory.hpp"
#include "adapters/containers/tree_state.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

struct RestorePlan {
  FillPlan fill;
  std::vector<ImageProcess> processes;
};

/// Adds what is staged of the lazy areas of process `pid`. Every page of them must be in a region
/// of `regions` (of one process, in order of addresses) or present in the images: kIntegrity,
/// naming the area, where one is neither. Pure.
[[nodiscard]] Status plan_process(pid_t pid, std::span<const ImageArea> areas,
                                  std::span<const ImagePages> pages,
                                  std::span<const StagedRegion> regions, FillPlan& plan);

/// Of all processes in `images`. kIntegrity for what would be zeros, kProtocol for owners and
/// images that do not fit each other.
[[nodiscard]] Result<RestorePlan> plan_restore(const RestoreFolder& images,
                                               const RestoreFolder::Spaces& told,
                                               const StagedMemory& staging);

}  // namespace migrate::containers
