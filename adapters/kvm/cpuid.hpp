// CPUID: what a guest sees of its processor, and what of it another host lacks.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/result.hpp"

namespace migrate::kvm {

using Cpuid = std::vector<kvm_cpuid_entry2>;

/// No processor has as many leaves; bounds what is read from a peer.
inline constexpr std::size_t kCpuidEntriesMax = 1024;

/// What KVM can give guests on this host.
[[nodiscard]] Result<Cpuid> supported_cpuid(int kvm_fd);
[[nodiscard]] Result<Cpuid> vcpu_cpuid(int vcpu_fd);
Status set_vcpu_cpuid(int vcpu_fd, const Cpuid& cpuid);

/// The states that may be enabled in XCR0.
[[nodiscard]] std::uint64_t xcr0_bits(const Cpuid& cpuid);

enum class Register : std::uint8_t { kEax, kEbx, kEcx, kEdx };
[[nodiscard]] std::string_view to_string(Register reg);

/// "avx2", or "CPUID 0x7.0 EBX bit 5" for one without a name.
[[nodiscard]] std::string feature_name(std::uint32_t function, std::uint32_t index, Register reg,
                                       unsigned bit);

/// What a guest that was given `guest` on a host whose KVM offers `source` would miss on one that
/// offers `target`, in words; empty when nothing. Features the VMM has forced, which the source's
/// KVM does not offer either, are not the hardware's and not looked at.
[[nodiscard]] std::vector<std::string> cpuid_faults(const Cpuid& guest, const Cpuid& source,
                                                    const Cpuid& target);

}  // namespace migrate::kvm
