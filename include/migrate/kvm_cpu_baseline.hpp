// KvmCpuBaseline: a processor that several hosts can give a guest, so that it can move among them.
//
// Each host says what its KVM can give (host_cpu_baseline), two baselines have a common one, and a
// guest is started with it on any of the hosts: what they do not all have is hidden from it. It
// holds feature bits, the layout of the XSAVE area, and the processor's signature; what no mask
// makes alike on different processors (performance counters, SGX, VMX, Intel PT, key locker,
// AVX10) is left out of every baseline. Library migrate::kvm.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/result.hpp"

struct kvm_cpuid_entry2;  // <linux/kvm.h>

namespace migrate {

struct KvmCpuBaseline {
  /// The feature bits of one register of one CPUID leaf. Those without a word are hidden.
  struct Word {
    std::uint32_t function = 0;
    std::uint32_t index = 0;
    std::uint32_t reg = 0;  ///< 0 EAX, 1 EBX, 2 ECX, 3 EDX.
    std::uint32_t bits = 0;
  };
  /// Where the XSAVE area keeps one state component (CPUID 0xd).
  struct Component {
    std::uint32_t number = 0;
    std::uint32_t bytes = 0;
    std::uint32_t offset = 0;
    std::uint32_t flags = 0;
  };
  std::string vendor;           ///< Twelve characters.
  std::uint32_t signature = 0;  ///< Family, model and stepping, as in CPUID 1 EAX.
  std::uint32_t max_leaf = 0;
  std::uint32_t max_extended_leaf = 0;
  std::uint32_t physical_bits = 0;  ///< Of addresses.
  std::uint32_t linear_bits = 0;
  std::vector<Word> words;
  std::vector<Component> components;
  /// IA32_ARCH_CAPABILITIES, where the guest has it.
  std::optional<std::uint64_t> arch_capabilities;
};

/// What this host's KVM can give.
[[nodiscard]] Result<KvmCpuBaseline> host_cpu_baseline(int kvm_fd);

/// What both can give: features of both, the older signature, the smaller limits. kIncompatible for
/// processors of different makes.
[[nodiscard]] Result<KvmCpuBaseline> common_cpu_baseline(const KvmCpuBaseline& a,
                                                         const KvmCpuBaseline& b);

/// The file format: lines of text, described in docs/cpu-baseline.md.
[[nodiscard]] std::string to_text(const KvmCpuBaseline& baseline);
/// kInvalidArgument with the line's number, kVersionMismatch for a newer format.
[[nodiscard]] Result<KvmCpuBaseline> parse_cpu_baseline(std::string_view text);

/// The CPUID a guest of that baseline gets on this host, for KVM_SET_CPUID2 of each vCPU; APIC ids
/// are the VMM's to put in. kIncompatible, naming it, when the host lacks something of it.
[[nodiscard]] Result<std::vector<kvm_cpuid_entry2>> cpuid_of_baseline(
    int kvm_fd, const KvmCpuBaseline& baseline);

/// The rest of it: the MSRs that say what the processor has. After KVM_SET_CPUID2, before the vCPU
/// first runs.
Status set_baseline_msrs(int vcpu_fd, const KvmCpuBaseline& baseline);

}  // namespace migrate
