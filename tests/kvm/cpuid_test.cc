// What a guest would miss on another processor, in words an operator understands.
#include "adapters/kvm/cpuid.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/kvm/processors.hpp"

namespace migrate::kvm {
namespace {

using migrate::testing::leaf;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// Each fault as "what: guest / here".
std::vector<std::string> told(const std::vector<Incompatibility>& faults) {
  std::vector<std::string> texts;
  for (const Incompatibility& fault : faults) {
    EXPECT_FALSE(fault.remedy.empty()) << fault.what;
    texts.push_back(fault.what + ": " + fault.guest + " / " + fault.here);
  }
  return texts;
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
  EXPECT_THAT(told(cpuid_faults(processor(), processor(), processor())), IsEmpty());
}

TEST(CpuidFaults, NamesEachFeatureThatIsMissing) {
  Cpuid target = processor();
  leaf(target, 7, 0).ebx = 1U << 5;
  leaf(target, 1, 0).ecx = 1U << 28;
  EXPECT_THAT(told(cpuid_faults(processor(), processor(), target)),
              ElementsAre("processor features: fma, avx512f / missing"));
}

TEST(CpuidFaults, AMaskedFeatureIsNotMissed) {
  Cpuid guest = processor();
  leaf(guest, 7, 0).ebx = 1U << 5;
  Cpuid target = guest;
  EXPECT_THAT(told(cpuid_faults(guest, processor(), target)), IsEmpty());
}

TEST(CpuidFaults, MoreFeaturesAtTheTargetAreFine) {
  Cpuid target = processor();
  leaf(target, 7, 0).ecx = ~0U;
  EXPECT_THAT(told(cpuid_faults(processor(), processor(), target)), IsEmpty());
}

TEST(CpuidFaults, FeaturesForcedByTheVmmAreNotTheHardwares) {
  Cpuid guest = processor();
  leaf(guest, 1, 0).edx |= 1U << 28;  // HT, set for the topology; KVM offers it nowhere.
  EXPECT_THAT(told(cpuid_faults(guest, processor(), processor())), IsEmpty());
}

TEST(CpuidFaults, AnotherMakeIsRefused) {
  Cpuid target = processor();
  std::memcpy(&leaf(target, 0, 0).ebx, "Auth", 4);
  std::memcpy(&leaf(target, 0, 0).edx, "enti", 4);
  std::memcpy(&leaf(target, 0, 0).ecx, "\x1b[2J", 4);
  EXPECT_THAT(told(cpuid_faults(processor(), processor(), target)),
              ElementsAre("processor make: GenuineIntel / Authenti?[2J"));
}

TEST(CpuidFaults, AnotherXsaveLayoutIsRefused) {
  Cpuid target = processor();
  leaf(target, 0xd, 5).ebx = 960;
  EXPECT_THAT(told(cpuid_faults(processor(), processor(), target)),
              ElementsAre("XSAVE area, state 5: 64 bytes at 832 / 64 bytes at 960"));
}

TEST(CpuidFaults, FewerAddressBitsAreRefused) {
  Cpuid target = processor();
  leaf(target, 0x80000008, 0).eax = 39;
  EXPECT_THAT(told(cpuid_faults(processor(), processor(), target)),
              ElementsAre("physical address bits: 46 / 39"));
}

TEST(Incompatible, IsAListWithEachRemedyOnce) {
  const std::vector<Incompatibility> faults = {
      {"TSC frequency", "2600 MHz", "3100 MHz", "scale it"},
      {"processor features", "avx2", "missing", "mask it"},
      {"CPUID", "", "KVM refuses", "mask it"}};
  const Error error = incompatible(faults);
  EXPECT_EQ(error.code, ErrorCode::kIncompatible);
  EXPECT_EQ(error.message,
            "this host cannot take the guest: (1) TSC frequency: the guest has 2600 MHz, here 3100 "
            "MHz; (2) processor features: the guest has avx2, here missing; (3) CPUID: here KVM "
            "refuses");
  EXPECT_EQ(error.remedy, "scale it; mask it");
}

TEST(CpuidFaults, FeaturesWithoutANameHaveTheirPlace) {
  EXPECT_EQ(feature_name(7, 0, Register::kEbx, 5), "avx2");
  EXPECT_EQ(feature_name(0x80000021, 0, Register::kEax, 9), "CPUID 0x80000021.0 EAX bit 9");
}

}  // namespace
}  // namespace migrate::kvm
