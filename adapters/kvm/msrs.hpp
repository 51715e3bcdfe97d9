// Model-specific registers: which a guest has, and reading and writing them in batches.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "migrate/result.hpp"

namespace migrate::kvm {

inline constexpr std::uint32_t kMsrTsc = 0x10;
inline constexpr std::uint32_t kMsrTscDeadline = 0x6e0;
inline constexpr std::uint32_t kMsrArchCapabilities = 0x10a;

/// The MSRs worth moving: the kernel's whole index list, and those of the memory type ranges, which
/// older kernels leave out of it.
[[nodiscard]] Result<std::vector<std::uint32_t>> msr_candidates(int kvm_fd);

/// Adds the MSRs of the vCPU's banks of machine checks, which the kernel's list lacks.
Status add_machine_check_msrs(int vcpu_fd, std::vector<std::uint32_t>& indices);

/// IA32_MCG_CAP; nullopt where KVM does not tell.
[[nodiscard]] Result<std::optional<std::uint64_t>> machine_check_cap(int vcpu_fd);

/// The MSRs that say what a processor has (KVM_GET_MSR_FEATURE_INDEX_LIST) with what KVM offers
/// here; none where the kernel is older than 4.17.
[[nodiscard]] Result<std::vector<kvm_msr_entry>> feature_msrs(int kvm_fd);

/// Reads `indices` of a vCPU into `values`; those KVM refuses go to `unreadable` instead.
Status read_msrs(int vcpu_fd, std::span<const std::uint32_t> indices,
                 std::vector<kvm_msr_entry>& values, std::vector<std::uint32_t>& unreadable);

/// Writes `values`; those KVM refuses go to `refused`.
Status write_msrs(int vcpu_fd, std::span<const kvm_msr_entry> values,
                  std::vector<kvm_msr_entry>& refused);

/// The order in which MSRs are loaded: first those that say what the processor has, because setting
/// them may reset others (PERF_CAPABILITIES empties the performance counters); then as listed; last
/// those that switch performance counters on, which have been filled by then.
void sort_for_loading(std::vector<kvm_msr_entry>& values);

/// The entry of `index`, or null.
[[nodiscard]] const kvm_msr_entry* find_msr(std::span<const kvm_msr_entry> values,
                                            std::uint32_t index);

/// "0x1f".
[[nodiscard]] std::string hex(std::uint64_t value);
/// "0x10, 0x174".
[[nodiscard]] std::string msr_list(std::span<const std::uint32_t> indices);

}  // namespace migrate::kvm
