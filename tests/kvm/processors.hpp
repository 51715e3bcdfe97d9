// Processors as KVM might offer them, for tests of what guests are given.
#pragma once

#include <linux/kvm.h>

#include <cstring>

#include "adapters/kvm/cpuid.hpp"

namespace migrate::testing {

inline kvm_cpuid_entry2& leaf(kvm::Cpuid& cpuid, std::uint32_t function, std::uint32_t index = 0) {
  for (kvm_cpuid_entry2& entry : cpuid) {
    if (entry.function == function && entry.index == index) return entry;
  }
  kvm_cpuid_entry2 entry{};
  entry.function = function;
  entry.index = index;
  if (function == 0x7 || function == 0xd) entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
  cpuid.push_back(entry);
  return cpuid.back();
}

/// With AVX-512, protection keys, shadow stacks, SVM, performance counters and Intel PT.
inline kvm::Cpuid server_processor() {
  kvm::Cpuid cpuid;
  leaf(cpuid, 0).eax = 0x1f;
  std::memcpy(&leaf(cpuid, 0).ebx, "Genu", 4);
  std::memcpy(&leaf(cpuid, 0).edx, "ineI", 4);
  std::memcpy(&leaf(cpuid, 0).ecx, "ntel", 4);
  leaf(cpuid, 1).eax = 0x000806f8;
  // SSE3, VMX, FMA, PCID, XSAVE, AVX, F16C, hypervisor.
  leaf(cpuid, 1).ecx =
      1U | 1U << 5 | 1U << 12 | 1U << 17 | 1U << 26 | 1U << 28 | 1U << 29 | 1U << 31;
  leaf(cpuid, 1).edx = 0x078bfbff;
  // AVX2, INVPCID, AVX-512 F and DQ, Intel PT.
  leaf(cpuid, 7).ebx = 1U << 5 | 1U << 10 | 1U << 16 | 1U << 17 | 1U << 25;
  leaf(cpuid, 7).ecx = 1U << 3 | 1U << 7 | 1U << 11;  // PKU, SHSTK, AVX-512 VNNI.
  leaf(cpuid, 7).edx = 1U << 29;                      // ARCH_CAPABILITIES.
  leaf(cpuid, 0xa).eax = 0x07300805;
  leaf(cpuid, 0xd).eax = 0x2e7;
  leaf(cpuid, 0xd).ebx = leaf(cpuid, 0xd).ecx = 2696;
  leaf(cpuid, 0xd, 1).eax = 0xf;
  leaf(cpuid, 0xd, 1).ecx = 1U << 11 | 1U << 12;
  const auto state = [&](std::uint32_t number, std::uint32_t bytes, std::uint32_t offset,
                         std::uint32_t flags) {
    leaf(cpuid, 0xd, number).eax = bytes;
    leaf(cpuid, 0xd, number).ebx = offset;
    leaf(cpuid, 0xd, number).ecx = flags;
  };
  state(2, 256, 576, 0);
  state(5, 64, 1088, 0);
  state(6, 512, 1152, 0);
  state(7, 1024, 1664, 0);
  state(9, 8, 2688, 0);
  state(11, 16, 0, 1);
  state(12, 24, 0, 1);
  leaf(cpuid, 0x14).ebx = 0xf;
  leaf(cpuid, 0x40000000).eax = 0x40000001;
  leaf(cpuid, 0x40000001).eax = 0x01007efb;
  leaf(cpuid, 0x80000000).eax = 0x80000008;
  leaf(cpuid, 0x80000001).edx = 1U << 20 | 1U << 27 | 1U << 29;
  std::memcpy(&leaf(cpuid, 0x80000002).eax, "Xeon", 4);
  leaf(cpuid, 0x80000008).eax = 57 << 8 | 46;
  leaf(cpuid, 0x8000001f).eax = 3;
  return cpuid;
}

/// An older one: no AVX-512, keys or shadow stacks, four levels of page tables less.
inline kvm::Cpuid older_processor() {
  kvm::Cpuid cpuid = server_processor();
  leaf(cpuid, 0).eax = 0xd;
  leaf(cpuid, 1).eax = 0x000306c3;
  leaf(cpuid, 7).ebx = 1U << 5 | 1U << 10 | 1U << 3;  // And BMI1, which the other lacks here.
  leaf(cpuid, 7).ecx = 0;
  leaf(cpuid, 0xd).eax = 0x7;
  leaf(cpuid, 0xd).ebx = leaf(cpuid, 0xd).ecx = 832;
  leaf(cpuid, 0xd, 1).ecx = 0;
  leaf(cpuid, 0x80000008).eax = 48 << 8 | 39;
  return cpuid;
}

}  // namespace migrate::testing
