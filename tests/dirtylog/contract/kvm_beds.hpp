// Beds on a KVM guest's memory.
#pragma once

#include <vector>

#include "tests/dirtylog/contract/bed.hpp"

namespace migrate::testing {

/// The dirty log in each of its modes, joined with marks of the VMM's writes, and the trackers of
/// this process's memory under a guest.
[[nodiscard]] std::vector<BedKind> kvm_bed_kinds();

}  // namespace migrate::testing
