#include "adapters/kvm/cpuid.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>

namespace migrate::kvm {
namespace {

struct NamedFeature {
  std::uint32_t function;
  std::uint32_t index;
  Register reg;
  unsigned bit;
  std::string_view name;
};

/// Those an operator may know, by the names Linux and QEMU use.
constexpr NamedFeature kNamedFeatures[] = {
    {0x1, 0, Register::kEcx, 0, "sse3"},
    {0x1, 0, Register::kEcx, 1, "pclmulqdq"},
    {0x1, 0, Register::kEcx, 3, "monitor"},
    {0x1, 0, Register::kEcx, 5, "vmx"},
    {0x1, 0, Register::kEcx, 9, "ssse3"},
    {0x1, 0, Register::kEcx, 12, "fma"},
    {0x1, 0, Register::kEcx, 13, "cx16"},
    {0x1, 0, Register::kEcx, 15, "pdcm"},
    {0x1, 0, Register::kEcx, 17, "pcid"},
    {0x1, 0, Register::kEcx, 19, "sse4.1"},
    {0x1, 0, Register::kEcx, 20, "sse4.2"},
    {0x1, 0, Register::kEcx, 21, "x2apic"},
    {0x1, 0, Register::kEcx, 22, "movbe"},
    {0x1, 0, Register::kEcx, 23, "popcnt"},
    {0x1, 0, Register::kEcx, 24, "tsc-deadline"},
    {0x1, 0, Register::kEcx, 25, "aes"},
    {0x1, 0, Register::kEcx, 26, "xsave"},
    {0x1, 0, Register::kEcx, 27, "osxsave"},
    {0x1, 0, Register::kEcx, 28, "avx"},
    {0x1, 0, Register::kEcx, 29, "f16c"},
    {0x1, 0, Register::kEcx, 30, "rdrand"},
    {0x1, 0, Register::kEcx, 31, "hypervisor"},
    {0x1, 0, Register::kEdx, 0, "fpu"},
    {0x1, 0, Register::kEdx, 4, "tsc"},
    {0x1, 0, Register::kEdx, 6, "pae"},
    {0x1, 0, Register::kEdx, 8, "cx8"},
    {0x1, 0, Register::kEdx, 9, "apic"},
    {0x1, 0, Register::kEdx, 11, "sep"},
    {0x1, 0, Register::kEdx, 12, "mtrr"},
    {0x1, 0, Register::kEdx, 16, "pat"},
    {0x1, 0, Register::kEdx, 19, "clflush"},
    {0x1, 0, Register::kEdx, 23, "mmx"},
    {0x1, 0, Register::kEdx, 24, "fxsr"},
    {0x1, 0, Register::kEdx, 25, "sse"},
    {0x1, 0, Register::kEdx, 26, "sse2"},
    {0x1, 0, Register::kEdx, 28, "ht"},
    {0x7, 0, Register::kEbx, 0, "fsgsbase"},
    {0x7, 0, Register::kEbx, 1, "tsc-adjust"},
    {0x7, 0, Register::kEbx, 3, "bmi1"},
    {0x7, 0, Register::kEbx, 4, "hle"},
    {0x7, 0, Register::kEbx, 5, "avx2"},
    {0x7, 0, Register::kEbx, 7, "smep"},
    {0x7, 0, Register::kEbx, 8, "bmi2"},
    {0x7, 0, Register::kEbx, 9, "erms"},
    {0x7, 0, Register::kEbx, 10, "invpcid"},
    {0x7, 0, Register::kEbx, 11, "rtm"},
    {0x7, 0, Register::kEbx, 14, "mpx"},
    {0x7, 0, Register::kEbx, 16, "avx512f"},
    {0x7, 0, Register::kEbx, 17, "avx512dq"},
    {0x7, 0, Register::kEbx, 18, "rdseed"},
    {0x7, 0, Register::kEbx, 19, "adx"},
    {0x7, 0, Register::kEbx, 20, "smap"},
    {0x7, 0, Register::kEbx, 21, "avx512ifma"},
    {0x7, 0, Register::kEbx, 23, "clflushopt"},
    {0x7, 0, Register::kEbx, 24, "clwb"},
    {0x7, 0, Register::kEbx, 25, "intel-pt"},
    {0x7, 0, Register::kEbx, 28, "avx512cd"},
    {0x7, 0, Register::kEbx, 29, "sha-ni"},
    {0x7, 0, Register::kEbx, 30, "avx512bw"},
    {0x7, 0, Register::kEbx, 31, "avx512vl"},
    {0x7, 0, Register::kEcx, 1, "avx512vbmi"},
    {0x7, 0, Register::kEcx, 2, "umip"},
    {0x7, 0, Register::kEcx, 3, "pku"},
    {0x7, 0, Register::kEcx, 4, "ospke"},
    {0x7, 0, Register::kEcx, 5, "waitpkg"},
    {0x7, 0, Register::kEcx, 6, "avx512vbmi2"},
    {0x7, 0, Register::kEcx, 7, "shstk"},
    {0x7, 0, Register::kEcx, 8, "gfni"},
    {0x7, 0, Register::kEcx, 9, "vaes"},
    {0x7, 0, Register::kEcx, 10, "vpclmulqdq"},
    {0x7, 0, Register::kEcx, 11, "avx512vnni"},
    {0x7, 0, Register::kEcx, 12, "avx512bitalg"},
    {0x7, 0, Register::kEcx, 14, "avx512vpopcntdq"},
    {0x7, 0, Register::kEcx, 16, "la57"},
    {0x7, 0, Register::kEcx, 22, "rdpid"},
    {0x7, 0, Register::kEcx, 24, "bus-lock-detect"},
    {0x7, 0, Register::kEcx, 25, "cldemote"},
    {0x7, 0, Register::kEcx, 27, "movdiri"},
    {0x7, 0, Register::kEcx, 28, "movdir64b"},
    {0x7, 0, Register::kEdx, 2, "avx512-4vnniw"},
    {0x7, 0, Register::kEdx, 3, "avx512-4fmaps"},
    {0x7, 0, Register::kEdx, 4, "fsrm"},
    {0x7, 0, Register::kEdx, 8, "avx512-vp2intersect"},
    {0x7, 0, Register::kEdx, 10, "md-clear"},
    {0x7, 0, Register::kEdx, 14, "serialize"},
    {0x7, 0, Register::kEdx, 16, "tsxldtrk"},
    {0x7, 0, Register::kEdx, 20, "ibt"},
    {0x7, 0, Register::kEdx, 22, "amx-bf16"},
    {0x7, 0, Register::kEdx, 23, "avx512fp16"},
    {0x7, 0, Register::kEdx, 24, "amx-tile"},
    {0x7, 0, Register::kEdx, 25, "amx-int8"},
    {0x7, 0, Register::kEdx, 26, "spec-ctrl"},
    {0x7, 0, Register::kEdx, 27, "stibp"},
    {0x7, 0, Register::kEdx, 28, "flush-l1d"},
    {0x7, 0, Register::kEdx, 29, "arch-capabilities"},
    {0x7, 0, Register::kEdx, 31, "ssbd"},
    {0x7, 1, Register::kEax, 4, "avx-vnni"},
    {0x7, 1, Register::kEax, 5, "avx512-bf16"},
    {0x7, 1, Register::kEax, 10, "fzrm"},
    {0x7, 1, Register::kEax, 11, "fsrs"},
    {0x7, 1, Register::kEax, 12, "fsrc"},
    {0x7, 1, Register::kEax, 21, "amx-fp16"},
    {0x7, 1, Register::kEax, 23, "avx-ifma"},
    {0x7, 1, Register::kEax, 26, "lam"},
    {0xd, 1, Register::kEax, 0, "xsaveopt"},
    {0xd, 1, Register::kEax, 1, "xsavec"},
    {0xd, 1, Register::kEax, 2, "xgetbv1"},
    {0xd, 1, Register::kEax, 3, "xsaves"},
    {0xd, 1, Register::kEax, 4, "xfd"},
    {0x40000001, 0, Register::kEax, 0, "kvm-clocksource"},
    {0x40000001, 0, Register::kEax, 1, "kvm-nop-io-delay"},
    {0x40000001, 0, Register::kEax, 3, "kvm-clocksource2"},
    {0x40000001, 0, Register::kEax, 4, "kvm-async-pf"},
    {0x40000001, 0, Register::kEax, 5, "kvm-steal-time"},
    {0x40000001, 0, Register::kEax, 6, "kvm-pv-eoi"},
    {0x40000001, 0, Register::kEax, 7, "kvm-pv-unhalt"},
    {0x40000001, 0, Register::kEax, 9, "kvm-pv-tlb-flush"},
    {0x40000001, 0, Register::kEax, 11, "kvm-pv-send-ipi"},
    {0x40000001, 0, Register::kEax, 12, "kvm-poll-control"},
    {0x40000001, 0, Register::kEax, 13, "kvm-pv-sched-yield"},
    {0x40000001, 0, Register::kEax, 14, "kvm-async-pf-int"},
    {0x40000001, 0, Register::kEax, 15, "kvm-msi-ext-dest-id"},
    {0x40000001, 0, Register::kEax, 24, "kvm-clocksource-stable"},
    {0x80000001, 0, Register::kEcx, 0, "lahf-lm"},
    {0x80000001, 0, Register::kEcx, 2, "svm"},
    {0x80000001, 0, Register::kEcx, 4, "cr8-legacy"},
    {0x80000001, 0, Register::kEcx, 5, "lzcnt"},
    {0x80000001, 0, Register::kEcx, 6, "sse4a"},
    {0x80000001, 0, Register::kEcx, 7, "misalignsse"},
    {0x80000001, 0, Register::kEcx, 8, "3dnowprefetch"},
    {0x80000001, 0, Register::kEcx, 11, "xop"},
    {0x80000001, 0, Register::kEcx, 15, "lwp"},
    {0x80000001, 0, Register::kEcx, 16, "fma4"},
    {0x80000001, 0, Register::kEcx, 21, "tbm"},
    {0x80000001, 0, Register::kEcx, 22, "topoext"},
    {0x80000001, 0, Register::kEcx, 23, "perfctr-core"},
    {0x80000001, 0, Register::kEdx, 11, "syscall"},
    {0x80000001, 0, Register::kEdx, 20, "nx"},
    {0x80000001, 0, Register::kEdx, 22, "mmxext"},
    {0x80000001, 0, Register::kEdx, 25, "fxsr-opt"},
    {0x80000001, 0, Register::kEdx, 26, "pdpe1gb"},
    {0x80000001, 0, Register::kEdx, 27, "rdtscp"},
    {0x80000001, 0, Register::kEdx, 29, "lm"},
    {0x80000001, 0, Register::kEdx, 30, "3dnowext"},
    {0x80000001, 0, Register::kEdx, 31, "3dnow"},
    {0x80000007, 0, Register::kEdx, 8, "invtsc"},
    {0x80000008, 0, Register::kEbx, 0, "clzero"},
    {0x80000008, 0, Register::kEbx, 2, "xsaveerptr"},
    {0x80000008, 0, Register::kEbx, 9, "wbnoinvd"},
    {0x80000008, 0, Register::kEbx, 12, "amd-ibpb"},
    {0x80000008, 0, Register::kEbx, 14, "amd-ibrs"},
    {0x80000008, 0, Register::kEbx, 15, "amd-stibp"},
    {0x80000008, 0, Register::kEbx, 24, "amd-ssbd"},
    {0x80000008, 0, Register::kEbx, 25, "virt-ssbd"},
    {0x8000000a, 0, Register::kEdx, 0, "svm-npt"},
    {0x8000000a, 0, Register::kEdx, 1, "svm-lbrv"},
    {0x8000000a, 0, Register::kEdx, 3, "svm-nrips"},
    {0x8000000a, 0, Register::kEdx, 4, "svm-tsc-scale"},
    {0x8000000a, 0, Register::kEdx, 7, "svm-decode-assists"},
    {0x8000000a, 0, Register::kEdx, 10, "svm-pause-filter"},
    {0x8000000a, 0, Register::kEdx, 12, "svm-pause-threshold"},
    {0x8000000a, 0, Register::kEdx, 15, "svm-vmload"},
    {0x8000000a, 0, Register::kEdx, 16, "svm-vgif"},
};

}  // namespace

std::string feature_name(std::uint32_t function, std::uint32_t index, Register reg, unsigned bit) {
  const auto* named = std::find_if(
      std::begin(kNamedFeatures), std::end(kNamedFeatures), [&](const NamedFeature& feature) {
        return feature.function == function && feature.index == index && feature.reg == reg &&
               feature.bit == bit;
      });
  if (named != std::end(kNamedFeatures)) return std::string(named->name);
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "CPUID 0x%x.%u %s bit %u", function, index,
                to_string(reg).data(), bit);
  return text.data();
}

std::string feature_names(std::uint32_t function, std::uint32_t index, Register reg,
                          std::uint32_t bits) {
  std::string names;
  for (; bits != 0; bits &= bits - 1) {
    if (!names.empty()) names += ", ";
    names += feature_name(function, index, reg, static_cast<unsigned>(std::countr_zero(bits)));
  }
  return names;
}

}  // namespace migrate::kvm
