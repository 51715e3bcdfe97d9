// The inside of KvmCpuBaseline: what it is made from and what it makes. Pure.
#pragma once

#include <optional>
#include <vector>

#include "adapters/kvm/cpuid.hpp"
#include "adapters/kvm/incompatibility.hpp"
#include "migrate/kvm_cpu_baseline.hpp"

namespace migrate::kvm {

/// Of a host whose KVM offers `supported` and has `arch_capabilities` for its guests.
[[nodiscard]] KvmCpuBaseline baseline_of(const Cpuid& supported,
                                         std::optional<std::uint64_t> arch_capabilities);

/// What of `wanted` a host that can give `host` lacks; empty when nothing.
[[nodiscard]] std::vector<Incompatibility> baseline_faults(const KvmCpuBaseline& wanted,
                                                           const KvmCpuBaseline& host);

/// `supported` without what the baseline hides. The host must have all of it (baseline_faults).
[[nodiscard]] Cpuid mask_cpuid(const Cpuid& supported, const KvmCpuBaseline& baseline);

}  // namespace migrate::kvm
