// What of a saved state a host with other capabilities takes. Pure.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "adapters/kvm/vcpu_caps.hpp"
#include "migrate/result.hpp"

namespace migrate::kvm {

/// Pending events without what this kernel does not know; kIncompatible when something of that is
/// pending.
[[nodiscard]] Result<kvm_vcpu_events> fit_events(kvm_vcpu_events events, const VcpuCaps& caps);

/// Marks the components of an XSAVE area that the guest cannot have (not in `components`, its
/// XCR0's possible bits) as unused. Kernels before 6.6 save what the host has, such as PKRU, which
/// another host refuses.
void fit_xsave(std::span<std::byte> area, std::uint64_t components);

}  // namespace migrate::kvm
