// What a guest would miss on another processor, in words an operator understands.
#include "adapters/kvm/cpuid.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

namespace migrate::kvm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

kvm_cpuid_entry2& leaf(Cpuid& cpuid, std::uint32_t function, std::uint32_t index) {
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

Cpuid processor() {
  Cpuid cpuid;
  std::memcpy(&leaf(cpuid, 0, 0).ebx, "Genu", 4);
  std::memcpy(&leaf(cpuid, 0, 0).edx, "ineI", 4);
  std::memcpy(&leaf(cpuid, 0, 0).ecx, "ntel", 4);
  leaf(cpuid, 1, 0).ecx = 1U << 28 | 1U << 12;  // AVX, FMA.
  leaf(cpuid, 7, 0).ebx = 1U << 5 | 1U << 16;   // AVX2, AVX-512F.
  leaf(cpuid, 0xd, 0).eax = 0xe7;
  leaf(cpuid, 0xd, 2).eax = 256;
  leaf(cpuid, 0xd, 2).ebx = 576;
  leaf(cpuid, 0xd, 5).eax = 64;
  leaf(cpuid, 0xd, 5).ebx = 832;
  leaf(cpuid, 0x80000008, 0).eax = 46;
  return cpuid;
}

TEST(CpuidFaults, EqualProcessorsHaveNone) {
  EXPECT_THAT(cpuid_faults(processor(), processor(), processor()), IsEmpty());
}

TEST(CpuidFaults, NamesEachFeatureThatIsMissing) {
  Cpuid target = processor();
  leaf(target, 7, 0).ebx = 1U << 5;
  leaf(target, 1, 0).ecx = 1U << 28;
  EXPECT_THAT(cpuid_faults(processor(), processor(), target),
              ElementsAre("the processor here lacks fma, avx512f"));
}

TEST(CpuidFaults, AMaskedFeatureIsNotMissed) {
  Cpuid guest = processor();
  leaf(guest, 7, 0).ebx = 1U << 5;
  Cpuid target = guest;
  EXPECT_THAT(cpuid_faults(guest, processor(), target), IsEmpty());
}

TEST(CpuidFaults, MoreFeaturesAtTheTargetAreFine) {
  Cpuid target = processor();
  leaf(target, 7, 0).ecx = ~0U;
  EXPECT_THAT(cpuid_faults(processor(), processor(), target), IsEmpty());
}

TEST(CpuidFaults, FeaturesForcedByTheVmmAreNotTheHardwares) {
  Cpuid guest = processor();
  leaf(guest, 1, 0).edx |= 1U << 28;  // HT, set for the topology; KVM offers it nowhere.
  EXPECT_THAT(cpuid_faults(guest, processor(), processor()), IsEmpty());
}

TEST(CpuidFaults, AnotherMakeIsRefused) {
  Cpuid target = processor();
  std::memcpy(&leaf(target, 0, 0).ebx, "Auth", 4);
  std::memcpy(&leaf(target, 0, 0).edx, "enti", 4);
  std::memcpy(&leaf(target, 0, 0).ecx, "\x1b[2J", 4);
  EXPECT_THAT(
      cpuid_faults(processor(), processor(), target),
      ElementsAre("the processor here is of another make (Authenti?[2J, not GenuineIntel)"));
}

TEST(CpuidFaults, AnotherXsaveLayoutIsRefused) {
  Cpuid target = processor();
  leaf(target, 0xd, 5).ebx = 960;
  EXPECT_THAT(cpuid_faults(processor(), processor(), target), ElementsAre(HasSubstr("state 5")));
}

TEST(CpuidFaults, FewerAddressBitsAreRefused) {
  Cpuid target = processor();
  leaf(target, 0x80000008, 0).eax = 39;
  EXPECT_THAT(cpuid_faults(processor(), processor(), target),
              ElementsAre(HasSubstr("46 physical address bits")));
}

TEST(CpuidFaults, FeaturesWithoutANameHaveTheirPlace) {
  EXPECT_EQ(feature_name(7, 0, Register::kEbx, 5), "avx2");
  EXPECT_EQ(feature_name(0x80000021, 0, Register::kEax, 9), "CPUID 0x80000021.0 EAX bit 9");
}

}  // namespace
}  // namespace migrate::kvm
