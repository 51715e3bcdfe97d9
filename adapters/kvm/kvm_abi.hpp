// KVM's variable-length structures and their requests, as the kernel has them.
//
// In linux/kvm.h these end in a flexible array that some releases of the header declare behind an
// empty struct. That is 0 bytes in C and 1 in C++, so sizeof, the array's place and the request
// numbers made from sizeof are all wrong. Everything with such an array goes through here.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>

namespace migrate::kvm::abi {

/// kvm_msrs; kvm_msr_entry follow.
struct Msrs {
  std::uint32_t count;
  std::uint32_t pad;
};
/// kvm_msr_list; 32-bit indices follow.
struct MsrList {
  std::uint32_t count;
};
/// kvm_reg_list; 64-bit register numbers follow.
struct RegList {
  std::uint64_t count;
};
/// kvm_cpuid2; kvm_cpuid_entry2 follow.
struct Cpuid {
  std::uint32_t count;
  std::uint32_t pad;
};
/// kvm_xsave as it was before KVM_CAP_XSAVE2.
struct Xsave {
  std::uint32_t region[1024];
};
inline constexpr std::size_t kXsaveBytesMin = sizeof(Xsave);

static_assert(sizeof(Msrs) == 8 && sizeof(MsrList) == 4 && sizeof(Cpuid) == 8);
static_assert(sizeof(RegList) == 8);
static_assert(sizeof(kvm_msr_entry) == 16 && sizeof(kvm_cpuid_entry2) == 40);
static_assert(sizeof(kvm_nested_state) == 128 && sizeof(Xsave) == 4096);

inline constexpr unsigned long kGetMsrIndexList = _IOWR(KVMIO, 0x02, MsrList);
inline constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, Cpuid);
inline constexpr unsigned long kGetMsrFeatureIndexList = _IOWR(KVMIO, 0x0a, MsrList);
inline constexpr unsigned long kGetMsrs = _IOWR(KVMIO, 0x88, Msrs);
inline constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, Msrs);
inline constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, Cpuid);
inline constexpr unsigned long kGetCpuid2 = _IOWR(KVMIO, 0x91, Cpuid);
inline constexpr unsigned long kGetXsave = _IOR(KVMIO, 0xa4, Xsave);
inline constexpr unsigned long kSetXsave = _IOW(KVMIO, 0xa5, Xsave);
inline constexpr unsigned long kGetRegList = _IOWR(KVMIO, 0xb0, RegList);
inline constexpr unsigned long kGetXsave2 = _IOR(KVMIO, 0xcf, Xsave);

}  // namespace migrate::kvm::abi
