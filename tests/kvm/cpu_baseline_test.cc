// What several processors can all give: features, states and limits; and a guest sees nothing else.
#include "adapters/kvm/cpu_baseline.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/kvm/arch_capabilities.hpp"
#include "tests/kvm/processors.hpp"

namespace migrate::kvm {
namespace {

using migrate::testing::leaf;
using migrate::testing::older_processor;
using migrate::testing::server_processor;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

KvmCpuBaseline baseline(const Cpuid& cpuid) { return baseline_of(cpuid, 0x69); }

std::vector<std::uint32_t> states(const KvmCpuBaseline& of) {
  std::vector<std::uint32_t> numbers;
  for (const auto& component : of.components) numbers.push_back(component.number);
  return numbers;
}

KvmCpuBaseline common(const Cpuid& a, const Cpuid& b) {
  auto both = common_cpu_baseline(baseline(a), baseline(b));
  EXPECT_TRUE(both);
  return *std::move(both);
}

TEST(CpuBaseline, OfOneHostIsWhatThatHostCanGive) {
  for (const Cpuid& cpuid : {server_processor(), older_processor()}) {
    EXPECT_THAT(baseline_faults(baseline(cpuid), baseline(cpuid)), IsEmpty());
    EXPECT_EQ(to_text(common(cpuid, cpuid)), to_text(baseline(cpuid)));
  }
}

TEST(CpuBaseline, OfTwoHostsBothCanGiveWhicheverComesFirst) {
  const Cpuid server = server_processor();
  const Cpuid older = older_processor();
  const KvmCpuBaseline both = common(server, older);
  EXPECT_EQ(to_text(both), to_text(common(older, server)));
  EXPECT_THAT(baseline_faults(both, baseline(server)), IsEmpty());
  EXPECT_THAT(baseline_faults(both, baseline(older)), IsEmpty());
  EXPECT_EQ(both.signature, 0x000306c3U) << "software takes it for the older one";
  EXPECT_EQ(both.max_leaf, 0xdU);
  EXPECT_EQ(both.physical_bits, 39U);
  EXPECT_EQ(both.linear_bits, 48U);
  EXPECT_THAT(states(both), ElementsAre(2));
}

TEST(CpuBaseline, WhatAHostLacksIsNamed) {
  const auto faults = baseline_faults(baseline(server_processor()), baseline(older_processor()));
  std::string all;
  for (const Incompatibility& fault : faults) {
    all += fault.what + ": " + fault.guest + " / " + fault.here + "\n";
    EXPECT_FALSE(fault.remedy.empty());
  }
  EXPECT_THAT(all, HasSubstr("avx512f"));
  EXPECT_THAT(all, HasSubstr("XSAVE area, state 9: 8 bytes at 2688 / none"));
  EXPECT_THAT(all, HasSubstr("physical address bits: 46 / 39"));
  EXPECT_THAT(all, HasSubstr("linear address bits: 57 / 48"));
  EXPECT_THAT(all, Not(HasSubstr("avx2")));
}

TEST(CpuBaseline, OtherMakesHaveNoneInCommon) {
  Cpuid other = server_processor();
  std::memcpy(&leaf(other, 0).ebx, "Auth", 4);
  const auto both = common_cpu_baseline(baseline(server_processor()), baseline(other));
  ASSERT_FALSE(both);
  EXPECT_EQ(both.error().code, ErrorCode::kIncompatible);
  EXPECT_FALSE(both.error().remedy.empty());
}

// What looks like a feature bit but cannot be kept by a mask is in no baseline, even of one host.
TEST(CpuBaseline, WhatAMaskCannotKeepIsHidden) {
  const Cpuid host = server_processor();
  Cpuid guest = mask_cpuid(host, baseline(host));
  EXPECT_EQ(word(guest, 1, 0, Register::kEcx) & 1U << 5, 0U) << "VMX";
  EXPECT_EQ(word(guest, 7, 0, Register::kEbx) & 1U << 25, 0U) << "Intel PT";
  EXPECT_EQ(find_leaf(guest, 0x14, 0), nullptr);
  EXPECT_EQ(find_leaf(guest, 0xa, 0), nullptr) << "performance counters";
  EXPECT_EQ(find_leaf(guest, 0x8000001f, 0), nullptr) << "memory encryption";
  EXPECT_EQ(leaf(guest, 7).ebx & 1U << 16, 1U << 16) << "AVX-512 stays";
  EXPECT_EQ(leaf(guest, 0x40000001).eax, 0x01007efbU);
}

TEST(CpuBaseline, AGuestOnTheNewerHostLooksLikeOneOnTheOlder) {
  const Cpuid server = server_processor();
  const Cpuid older = older_processor();
  const KvmCpuBaseline both = common(server, older);
  Cpuid there = mask_cpuid(server, both);
  Cpuid here = mask_cpuid(older, both);
  for (const FeatureWord& place : feature_words()) {
    EXPECT_EQ(word(there, place.function, place.index, place.reg),
              word(here, place.function, place.index, place.reg))
        << feature_name(place.function, place.index, place.reg, 0);
  }
  EXPECT_EQ(leaf(there, 0).eax, 0xdU);
  EXPECT_EQ(leaf(there, 1).eax, 0x000306c3U);
  EXPECT_EQ(find_leaf(there, 0xd, 5), nullptr);
  EXPECT_EQ(leaf(there, 0xd).ecx, 832U) << "the XSAVE area without what is hidden";
  EXPECT_EQ(leaf(there, 0x80000008).eax & 0xffff, 48U << 8 | 39);
  EXPECT_EQ(leaf(there, 0x80000002).eax, leaf(here, 0x80000002).eax) << "the name, too";
  // And each can move to the other: nothing is missed at either.
  EXPECT_THAT(cpuid_faults(there, server, older), IsEmpty());
  EXPECT_THAT(cpuid_faults(here, older, server), IsEmpty());
}

struct Hidden {
  const char* name;
  FeatureWord place;
  unsigned bit;
  FeatureWord gone_place;
  unsigned gone_bit;
};
constexpr FeatureWord k1c{1, 0, Register::kEcx};
constexpr FeatureWord k7b{7, 0, Register::kEbx};
constexpr FeatureWord k7c{7, 0, Register::kEcx};
constexpr FeatureWord kXcr0{0xd, 0, Register::kEax};
constexpr FeatureWord kXss{0xd, 1, Register::kEcx};
constexpr Hidden kHidden[] = {
    {"AVX takes FMA along", k1c, 28, k1c, 12},
    {"AVX takes AVX2 along", k1c, 28, k7b, 5},
    {"AVX takes AVX-512 along", k1c, 28, k7c, 11},
    {"AVX takes its state along", k1c, 28, kXcr0, 2},
    {"AVX-512 takes its states along", k7b, 16, kXcr0, 7},
    {"a state takes its feature along", kXcr0, 6, k7b, 16},
    {"keys take their state along", k7c, 3, kXcr0, 9},
    {"XSAVE takes shadow stacks along", k1c, 26, kXss, 11},
    {"PCID takes INVPCID along", k1c, 17, k7b, 10},
};

TEST(CpuBaseline, AHiddenFeatureTakesAlongWhatNeedsIt) {
  for (const Hidden& c : kHidden) {
    const Cpuid host = server_processor();
    ASSERT_NE(
        word(host, c.gone_place.function, c.gone_place.index, c.gone_place.reg) & 1U << c.gone_bit,
        0U)
        << c.name;
    KvmCpuBaseline mask = baseline(host);
    for (auto& each : mask.words) {
      if (each.function == c.place.function && each.index == c.place.index &&
          each.reg == static_cast<std::uint32_t>(c.place.reg)) {
        each.bits &= ~(1U << c.bit);
      }
    }
    const Cpuid guest = mask_cpuid(host, mask);
    EXPECT_EQ(
        word(guest, c.gone_place.function, c.gone_place.index, c.gone_place.reg) & 1U << c.gone_bit,
        0U)
        << c.name;
    EXPECT_EQ(word(guest, 1, 0, Register::kEcx) & 1U, 1U) << "SSE3 is left alone: " << c.name;
  }
}

TEST(CpuBaseline, AStateInAnotherPlaceIsInNoBaselineOfBoth) {
  Cpuid moved = server_processor();
  leaf(moved, 0xd, 9).ebx = 2432;
  const KvmCpuBaseline both = common(server_processor(), moved);
  EXPECT_THAT(states(both), ElementsAre(2, 5, 6, 7, 11, 12));
  const Cpuid guest = mask_cpuid(moved, both);
  EXPECT_EQ(word(guest, 7, 0, Register::kEcx) & 1U << 3, 0U) << "keys without their state";
}

// Some KVMs offer states without the features; what a host lacks anyway takes nothing along.
TEST(CpuBaseline, AnOddHostsBaselineIsItsOwn) {
  Cpuid odd = server_processor();
  leaf(odd, 1).ecx = 1U << 13;
  EXPECT_THAT(states(baseline(odd)), ElementsAre(2, 5, 6, 7, 9, 11, 12));
  EXPECT_EQ(to_text(common(odd, odd)), to_text(baseline(odd)));
  EXPECT_EQ(word(mask_cpuid(odd, baseline(odd)), 0xd, 0, Register::kEax), 0x2e7U);
}

TEST(ArchCapabilities, CommonIsWhatNoneIsAffectedByAndWhatAnyWarnsOf) {
  constexpr std::uint64_t kRdclNo = 1, kRsba = 1U << 2, kMdsNo = 1U << 5, kRrsba = 1U << 19;
  EXPECT_EQ(common_arch_capabilities(kRdclNo | kMdsNo, kMdsNo | kRsba), kMdsNo | kRsba);
  EXPECT_EQ(common_arch_capabilities(kRrsba, 0), kRrsba);
  EXPECT_EQ(missing_arch_capabilities(kRdclNo | kMdsNo, kMdsNo), "rdcl-no");
  EXPECT_EQ(missing_arch_capabilities(kMdsNo | kRsba, kMdsNo), "");
  EXPECT_EQ(missing_arch_capabilities(std::uint64_t{1} << 40, 0), "bit 40");
}

TEST(CpuBaseline, ArchCapabilitiesThatAHostLacksAreNamed) {
  const KvmCpuBaseline wanted = baseline_of(server_processor(), 0x21);
  const auto faults = baseline_faults(wanted, baseline_of(server_processor(), 0x1));
  ASSERT_EQ(faults.size(), 1U);
  EXPECT_EQ(faults[0].guest, "mds-no");
  EXPECT_THAT(baseline_faults(wanted, baseline_of(server_processor(), 0x29)), IsEmpty());
}

}  // namespace
}  // namespace migrate::kvm
