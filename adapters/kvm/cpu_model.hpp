// CpuModel: the inside of KvmCpuModel, and of the description's property "kvm.cpu".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "adapters/kvm/cpuid.hpp"
#include "migrate/kvm.hpp"
#include "migrate/result.hpp"

namespace migrate::kvm {

inline constexpr std::string_view kCpuProperty = "kvm.cpu";
inline constexpr std::uint32_t kCpuVersion = 2;

struct CpuModel {
  std::uint32_t tsc_khz = 0;       ///< The guest's; 0: unknown.
  std::uint32_t host_tsc_khz = 0;  ///< The host's own; 0: unknown.
  std::uint32_t xsave_bytes = 0;
  std::vector<std::uint32_t> msrs;        ///< Those that can be read: what moves.
  std::vector<std::uint32_t> unreadable;  ///< Listed by the kernel, but not readable.
  std::vector<std::uint32_t> in_use;      ///< Those of `msrs` that are not 0 on some vCPU.
  /// Of the first vCPU: those that say what its processor has (ARCH_CAPABILITIES, VMX, ...).
  std::vector<kvm_msr_entry> feature_msrs;
  Cpuid supported;           ///< What the source's KVM can give.
  std::vector<Cpuid> vcpus;  ///< What each vCPU was given.
};

/// No vCPU may be in KVM_RUN.
[[nodiscard]] Result<CpuModel> read_cpu_model(const KvmVm& vm);

[[nodiscard]] std::vector<std::byte> encode(const CpuModel& model);
/// kProtocol with the byte offset when the bytes are not a model.
[[nodiscard]] Result<CpuModel> decode_cpu_model(std::span<const std::byte> bytes);

}  // namespace migrate::kvm
