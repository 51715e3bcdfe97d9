// Model-specific registers: which a guest has, and reading and writing them in batches.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "migrate/result.hpp"

namespace migrate::kvm {

inline constexpr std::uint32_t kMsrTsc = 0x10;
inline constexpr std::uint32_t kMsrTscDeadline = 0x6e0;

/// The MSRs worth moving: the kernel's whole index list, and those of the memory type ranges, which
/// older kernels leave out of it.
[[nodiscard]] Result<std::vector<std::uint32_t>> msr_candidates(int kvm_fd);

/// Reads `indices` of a vCPU into `values`; those KVM refuses go to `unreadable` instead.
Status read_msrs(int vcpu_fd, std::span<const std::uint32_t> indices,
                 std::vector<kvm_msr_entry>& values, std::vector<std::uint32_t>& unreadable);

/// Writes `values`; those KVM refuses go to `refused`.
Status write_msrs(int vcpu_fd, std::span<const kvm_msr_entry> values,
                  std::vector<kvm_msr_entry>& refused);

/// The order in which MSRs are loaded: as listed, but performance counters are switched on after
/// they have been filled.
void sort_for_loading(std::vector<kvm_msr_entry>& values);

/// "0x10, 0x174".
[[nodiscard]] std::string msr_list(std::span<const std::uint32_t> indices);

}  // namespace migrate::kvm
