// IA32_ARCH_CAPABILITIES: what a processor says of its own faults. Pure.
#pragma once

#include <cstdint>
#include <string>

namespace migrate::kvm {

/// What two processors have in common: "not affected" where neither is, "take care" where either
/// says so.
[[nodiscard]] std::uint64_t common_arch_capabilities(std::uint64_t a, std::uint64_t b);

/// What a guest that was told `guest` would rely on wrongly on a host that offers `here`: "mds-no,
/// taa-no"; empty when nothing.
[[nodiscard]] std::string missing_arch_capabilities(std::uint64_t guest, std::uint64_t here);

}  // namespace migrate::kvm
