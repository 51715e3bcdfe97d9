// Incompatibility: one reason why a host cannot take a guest, in an operator's words.
#pragma once

#include <span>
#include <string>

#include "migrate/result.hpp"

namespace migrate::kvm {

struct Incompatibility {
  std::string what;   ///< "TSC frequency".
  std::string guest;  ///< What the guest has from its source: "2600 MHz".
  std::string here;   ///< What this host has instead: "3100 MHz".
  std::string remedy;
};

/// kIncompatible with all of them, numbered; each remedy once. `faults` is not empty.
[[nodiscard]] Error incompatible(std::span<const Incompatibility> faults);
/// The same with other words for the whole and for who has what this host lacks.
[[nodiscard]] Error incompatible(std::string text, const std::string& who,
                                 std::span<const Incompatibility> faults);

}  // namespace migrate::kvm
