// CPUID: what a guest sees of its processor, and what of it another host lacks.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/kvm/incompatibility.hpp"
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

/// Where the architecture, AMD and KVM keep feature bits.
struct FeatureWord {
  std::uint32_t function;
  std::uint32_t index;
  Register reg;
};
[[nodiscard]] std::span<const FeatureWord> feature_words();

/// A leaf, or null. `index` counts only where the leaf has sub-leaves.
[[nodiscard]] const kvm_cpuid_entry2* find_leaf(const Cpuid& cpuid, std::uint32_t function,
                                                std::uint32_t index);
[[nodiscard]] std::uint32_t& register_of(kvm_cpuid_entry2& entry, Register reg);
/// 0 where there is no such leaf.
[[nodiscard]] std::uint32_t word(const Cpuid& cpuid, std::uint32_t function, std::uint32_t index,
                                 Register reg);
/// Its twelve characters; those that cannot be printed are '?'.
[[nodiscard]] std::string vendor(const Cpuid& cpuid);

/// "avx2", or "CPUID 0x7.0 EBX bit 5" for one without a name.
[[nodiscard]] std::string feature_name(std::uint32_t function, std::uint32_t index, Register reg,
                                       unsigned bit);

/// "avx2, fma": the names of the bits set.
[[nodiscard]] std::string feature_names(std::uint32_t function, std::uint32_t index, Register reg,
                                        std::uint32_t bits);

/// What a guest that was given `guest` on a host whose KVM offers `source` would miss on one that
/// offers `target`; empty when nothing. Features the VMM has forced, which the source's KVM does
/// not offer either, are not the hardware's and not looked at.
[[nodiscard]] std::vector<Incompatibility> cpuid_faults(const Cpuid& guest, const Cpuid& source,
                                                        const Cpuid& target);

}  // namespace migrate::kvm
