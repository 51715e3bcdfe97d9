// Which processor features mean nothing without which others. Pure.
#pragma once

#include <cstdint>
#include <functional>

#include "adapters/kvm/cpuid.hpp"

namespace migrate::kvm {

/// One feature bit; states of XCR0 and IA32_XSS are those of CPUID 0xd.0 EAX and 0xd.1 ECX.
struct FeatureBit {
  std::uint32_t function;
  std::uint32_t index;
  Register reg;
  unsigned bit;
};

/// Calls drop(dependent) for each feature that has() and that needs one that is gone(), until there
/// is none left; drop must make has() false and gone() true for it.
void drop_dependents(const std::function<bool(const FeatureBit&)>& has,
                     const std::function<bool(const FeatureBit&)>& gone,
                     const std::function<void(const FeatureBit&)>& drop);

}  // namespace migrate::kvm
