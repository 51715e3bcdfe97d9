// The inside of the adapter's state sections: blocks of {kind u16, zero u16, length u32} and the
// kernel's structures. A change of a kind's meaning is a new version of its section.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/kvm/vcpu_state.hpp"
#include "adapters/kvm/vm_state.hpp"
#include "migrate/result.hpp"

namespace migrate::kvm {

/// Each section has a version of its own.
inline constexpr std::string_view kVmSection = "kvm.vm";
inline constexpr std::uint32_t kVmVersion = 1;
inline constexpr std::string_view kVcpuSectionPrefix = "kvm.vcpu.";
inline constexpr std::uint32_t kVcpuVersion = 1;

/// Larger than any vCPU: XSAVE with every feature today is 11 KiB, 4096 MSRs 64 KiB, nested 8.2
/// KiB.
inline constexpr std::size_t kSectionBytesMax = 256 * 1024;

[[nodiscard]] std::vector<std::byte> encode(const VcpuState& state);
[[nodiscard]] std::vector<std::byte> encode(const VmState& state);

/// kProtocol with the byte offset for blocks that are unknown, of a wrong length, twice or missing.
[[nodiscard]] Result<VcpuState> decode_vcpu(std::span<const std::byte> bytes);
[[nodiscard]] Result<VmState> decode_vm(std::span<const std::byte> bytes);

}  // namespace migrate::kvm
