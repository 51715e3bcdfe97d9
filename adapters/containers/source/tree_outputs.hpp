// Pipes that a tree writes to and somebody outside of it reads, such as a runtime's log.
#pragma once

#include <cstdint>
#include <vector>

#include "adapters/containers/source/process_tree.hpp"

namespace migrate::containers {

/// Their numbers, as in "pipe:[4711]", in order: those of which the tree has only ends to write to.
[[nodiscard]] std::vector<std::uint32_t> outputs_of(const std::vector<TreeProcess>& tree);

}  // namespace migrate::containers
