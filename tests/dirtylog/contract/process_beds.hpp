// Beds on another process's memory.
#pragma once

#include <vector>

#include "tests/dirtylog/contract/bed.hpp"

namespace migrate::testing {

/// Write protection, soft-dirty and the content hash of a process that writes, maps and forks.
[[nodiscard]] std::vector<BedKind> process_bed_kinds();

}  // namespace migrate::testing
