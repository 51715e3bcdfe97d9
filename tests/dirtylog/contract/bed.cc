#include "tests/dirtylog/contract/bed.hpp"

#include <iterator>

#include "tests/dirtylog/contract/kvm_beds.hpp"
#include "tests/dirtylog/contract/own_memory_beds.hpp"
#include "tests/dirtylog/contract/process_beds.hpp"

namespace migrate::testing {

std::vector<BedKind> bed_kinds() {
  std::vector<BedKind> kinds;
  for (const auto part : {own_memory_bed_kinds, kvm_bed_kinds, process_bed_kinds}) {
    std::vector<BedKind> some = part();
    kinds.insert(kinds.end(), std::make_move_iterator(some.begin()),
                 std::make_move_iterator(some.end()));
  }
  return kinds;
}

}  // namespace migrate::testing
