// A baseline's file: what was written is read again; anything else is an error with its line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "adapters/kvm/cpu_baseline.hpp"
#include "tests/kvm/processors.hpp"

namespace migrate::kvm {
namespace {

using ::testing::HasSubstr;

std::string text() {
  return to_text(baseline_of(migrate::testing::server_processor(), 0x8000000000000069));
}

TEST(CpuBaselineText, ComesBackAsItWas) {
  const auto read = parse_cpu_baseline(text());
  ASSERT_TRUE(read) << read.error().to_text();
  EXPECT_EQ(to_text(*read), text());
  EXPECT_EQ(read->vendor, "GenuineIntel");
  EXPECT_EQ(read->components.size(), 7U);
  EXPECT_EQ(read->arch_capabilities, 0x8000000000000069U);
}

TEST(CpuBaselineText, SaysWhatTheBitsAre) {
  EXPECT_THAT(text(), HasSubstr("migrate-cpu-baseline 1\n"));
  EXPECT_THAT(text(), HasSubstr("family 6, model 143, stepping 8"));
  EXPECT_THAT(text(), HasSubstr("# avx2, invpcid, avx512f, avx512dq"));
}

TEST(CpuBaselineText, CommentsBlankLinesAndOtherOrdersAreFine) {
  const auto read = parse_cpu_baseline(
      "# of two hosts\n\n migrate-cpu-baseline 1\r\n"
      "address-bits 46 57 # and so on\nmax-leaf 0xd 0x80000008\n"
      "\tsignature 0x306c3\nvendor GenuineIntel\nword 0x7.0 ebx 32");
  ASSERT_TRUE(read) << read.error().to_text();
  EXPECT_EQ(read->words.size(), 1U);
  EXPECT_EQ(read->words[0].bits, 32U);
  EXPECT_FALSE(read->arch_capabilities.has_value());
}

struct Bad {
  const char* line;
  const char* why;
};
constexpr Bad kBad[] = {
    {"word 0x7.0 ebx", "not understood"},
    {"word 0x7 ebx 0x1", "not understood"},
    {"word 0x7.0 rbx 0x1", "not understood"},
    {"word 0x7.0 ebx 0x1ffffffff", "not understood"},
    {"word 0x99.0 ebx 0x1", "not understood"},
    {"word 0x7.0 ebx 0x", "not understood"},
    {"word 0x7.0 ebx -1", "not understood"},
    {"component 2 bytes 256 offset 576", "not understood"},
    {"component 1 bytes 256 offset 576 flags 0", "not understood"},
    {"component 63 bytes 256 offset 576 flags 0", "not understood"},
    {"component 2 bytes 4294967295 offset 1 flags 0", "not understood"},
    {"vendor AuthenticAMD", "comes twice"},
    {"colour blue", "not understood"},
    {"migrate-cpu-baseline 1", "not understood"},
};

TEST(CpuBaselineText, WhatIsNotUnderstoodIsRefusedWithItsLine) {
  const std::string head =
      "migrate-cpu-baseline 1\nvendor GenuineIntel\nsignature 1\nmax-leaf 0xd 0x80000008\n"
      "address-bits 46 48\n";
  ASSERT_TRUE(parse_cpu_baseline(head));
  for (const Bad& bad : kBad) {
    const auto read = parse_cpu_baseline(head + bad.line + "\n");
    ASSERT_FALSE(read) << bad.line;
    EXPECT_EQ(read.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(read.error().message, HasSubstr("line 6"));
    EXPECT_THAT(read.error().message, HasSubstr(bad.why)) << bad.line;
    EXPECT_FALSE(read.error().remedy.empty());
  }
  const auto twice =
      parse_cpu_baseline(head + "word 0x7.0 ebx 1\nword 0x7.0 ecx 1\nword 0x7.0 ebx 1\n");
  ASSERT_FALSE(twice);
  EXPECT_THAT(twice.error().message, HasSubstr("line 8 comes twice"));
}

TEST(CpuBaselineText, ANewerFormatAndOtherFilesAreRefused) {
  const auto newer = parse_cpu_baseline("migrate-cpu-baseline 2\n");
  ASSERT_FALSE(newer);
  EXPECT_EQ(newer.error().code, ErrorCode::kVersionMismatch);
  for (const std::string& other : {std::string("#!/bin/sh\nexit\n"), std::string("{}"),
                                   std::string(1 << 17, 'x'), std::string()}) {
    const auto read = parse_cpu_baseline(other);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, ErrorCode::kInvalidArgument);
  }
  for (const char* lacking : {"vendor", "signature", "max-leaf", "address-bits"}) {
    std::string without = text();
    const auto begin = without.find(lacking);
    without.erase(begin, without.find('\n', begin) - begin);
    const auto read = parse_cpu_baseline(without);
    ASSERT_FALSE(read) << lacking;
    EXPECT_THAT(read.error().message, HasSubstr(lacking));
  }
}

TEST(CpuBaselineText, GarbageIsAnErrorAndNothingWorse) {
  std::mt19937_64 random(20261121);
  const std::string good = text();
  for (int i = 0; i < 3000; ++i) {
    std::string bad = good;
    for (int flips = 0; flips < 3; ++flips)
      bad[random() % bad.size()] = static_cast<char>(random());
    const auto read = parse_cpu_baseline(bad);
    if (!read) {
      EXPECT_FALSE(read.error().message.empty());
      continue;
    }
    // What was read can be used.
    (void)mask_cpuid(migrate::testing::server_processor(), *read);
    (void)common_cpu_baseline(*read, *read);
  }
}

}  // namespace
}  // namespace migrate::kvm
