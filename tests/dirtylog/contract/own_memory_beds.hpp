// Beds on memory of this process.
#pragma once

#include <vector>

#include "tests/dirtylog/contract/bed.hpp"

namespace migrate::testing {

/// Marks, write protection of each kind of memory, both together, and the content hash.
[[nodiscard]] std::vector<BedKind> own_memory_bed_kinds();

}  // namespace migrate::testing
