#include "wire/delta.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "tests/wire/page_samples.hpp"
#include "wire/byte_difference.hpp"

namespace migrate::wire {
namespace {

using testing::change;
using ::testing::HasSubstr;
using testing::Page;
using testing::random_page;

using Bytes = std::vector<std::byte>;

Bytes bytes_of(std::initializer_list<int> values) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

Bytes encoded(const Page& base, const Page& page) {
  std::array<std::byte, kDeltaPaysBytes> into;
  const std::size_t size = encode_delta(base, page, into);
  return {into.begin(), into.begin() + static_cast<std::ptrdiff_t>(size)};
}

/// The specification, read naively: nullopt where it is broken.
std::optional<Page> naive_decode(const Page& base, const Bytes& delta) {
  if (delta.empty() || delta.size() > 4094) return std::nullopt;
  std::size_t at = 0;
  const auto varint = [&]() -> std::optional<std::uint64_t> {
    std::uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
      if (at == delta.size() || shift > 56) return std::nullopt;
      const auto byte = static_cast<std::uint64_t>(delta[at++]);
      value |= (byte & 127) << shift;
      if (byte < 128) return byte == 0 && shift > 0 ? std::nullopt : std::optional(value);
    }
  };
  Page page = base;
  std::uint64_t reached = 0;
  for (bool first = true; at < delta.size(); first = false) {
    const auto copied = varint();
    const auto changed = copied ? varint() : std::nullopt;
    if (!changed || *changed == 0 || (*copied == 0 && !first)) return std::nullopt;
    if (reached + *copied + *changed > 4096 || delta.size() - at < *changed) return std::nullopt;
    reached += *copied;
    for (std::uint64_t i = 0; i < *changed; ++i) page[reached++] = delta[at++];
  }
  return page;
}

/// Decoded apart and in place, from a heap block that ends where the delta does, so that a
/// sanitizer sees a read beyond it.
void expect_as_the_oracle(const Page& base, const Bytes& delta) {
  const auto tight = std::make_unique<std::byte[]>(delta.size());
  std::copy(delta.begin(), delta.end(), tight.get());
  const std::span<const std::byte> bytes(tight.get(), delta.size());
  const auto expected = naive_decode(base, delta);
  // Guard bytes on both sides of the page that is written.
  std::array<std::byte, kPageSize + 128> guarded;
  guarded.fill(std::byte{0x5A});
  const std::span<std::byte, kPageSize> into(guarded.data() + 64, kPageSize);
  const Status apart = decode_delta(base, bytes, into);
  for (std::size_t i = 0; i < 64; ++i) {
    ASSERT_EQ(guarded[i], std::byte{0x5A});
    ASSERT_EQ(guarded[guarded.size() - 1 - i], std::byte{0x5A});
  }
  Page page = base;
  const Status in_place = decode_delta(page, bytes, page);
  ASSERT_EQ(apart.has_value(), expected.has_value());
  ASSERT_EQ(in_place.has_value(), expected.has_value());
  if (!expected) {
    ASSERT_EQ(apart.error().code, ErrorCode::kIntegrity);
    return;
  }
  ASSERT_EQ(page, *expected);
  ASSERT_TRUE(std::equal(into.begin(), into.end(), expected->begin()));
}

void expect_round_trip(const Page& base, const Page& page) {
  const Bytes delta = encoded(base, page);
  ASSERT_LE(delta.size(), kDeltaPaysBytes);
  if (delta.empty()) return;
  const auto again = naive_decode(base, delta);
  ASSERT_TRUE(again);
  ASSERT_EQ(*again, page);
  expect_as_the_oracle(base, delta);
}

std::size_t different_bytes(const Page& a, const Page& b) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) count += a[i] != b[i] ? 1 : 0;
  return count;
}

TEST(ByteDifference, IsExactOnEveryProcessor) {
  std::mt19937_64 random(1);
  for (int repeat = 0; repeat < 20000; ++repeat) {
    // Unaligned, as spans may be.
    std::array<std::byte, 2 * kBlockBytes + 8> bytes;
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() % 3 * 0x7f + random() % 2);
    const std::byte* const a = bytes.data() + random() % 4;
    const std::byte* const b = bytes.data() + kBlockBytes + random() % 4;
    std::uint64_t expected = 0;
    for (std::size_t i = 0; i < kBlockBytes; ++i) {
      expected |= std::uint64_t{a[i] != b[i] ? 1u : 0u} << i;
    }
    ASSERT_EQ(differing_bytes(a, b), expected);
    ASSERT_EQ(differing_bytes_portable(a, b), expected);
  }
}

TEST(Delta, AnyEditsComeBack) {
  std::mt19937_64 random(2);
  for (int repeat = 0; repeat < 3000; ++repeat) {
    const Page base = random() % 4 == 0 ? Page{} : random_page(random);
    Page page = base;
    const std::uint64_t longest = 1 + random() % 200;
    for (std::uint64_t edits = 1 + random() % 60; edits > 0; --edits) {
      change(page, random() % kPageSize, 1 + random() % longest, random);
    }
    expect_round_trip(base, page);
    if (HasFatalFailure()) FAIL() << "repeat " << repeat;
  }
}

TEST(Delta, EditsAtTheEdgesComeBack) {
  std::mt19937_64 random(3);
  const Page base = random_page(random);
  for (const std::size_t at : {0, 1, 63, 64, 127, 128, 4032, 4094, 4095}) {
    for (const std::size_t bytes : {1, 2, 63, 64, 65, 127, 128, 2000}) {
      Page page = base;
      change(page, at, bytes, random);
      change(page, 4095, 1, random);
      change(page, 0, 1, random);
      expect_round_trip(base, page);
    }
  }
}

TEST(Delta, AnEqualPageAndAWhollyDifferentOneAreNoDelta) {
  std::mt19937_64 random(4);
  const Page base = random_page(random);
  EXPECT_EQ(encoded(base, base).size(), 0u);
  Page page = base;
  change(page, 0, kPageSize, random);
  EXPECT_EQ(encoded(base, page).size(), 0u);
  EXPECT_EQ(encoded(base, random_page(random)).size(), 0u);
}

TEST(Delta, CostsLittleMoreThanWhatChanged) {
  std::mt19937_64 random(5);
  for (int repeat = 0; repeat < 2000; ++repeat) {
    const Page base = random_page(random);
    Page page = base;
    const std::uint64_t edits = 1 + random() % 100;
    for (std::uint64_t i = 0; i < edits; ++i) change(page, random() % kPageSize, 8, random);
    const Bytes delta = encoded(base, page);
    // Each edit is an operation of at most four bytes or part of one.
    ASSERT_LE(delta.size(), different_bytes(base, page) + 4 * edits);
    ASSERT_GT(delta.size(), different_bytes(base, page) / 2);
  }
}

TEST(Delta, Of64ChangedBytesIsUnderATenthOfThePageHoweverTheyLie) {
  std::mt19937_64 random(6);
  for (int repeat = 0; repeat < 1000; ++repeat) {
    const Page base = random_page(random);
    Page together = base;
    change(together, random() % (kPageSize - 64), 64, random);
    ASSERT_LE(encoded(base, together).size(), 68u);
    Page in_words = base;
    for (int i = 0; i < 8; ++i) change(in_words, random() % 512 * 8, 8, random);
    ASSERT_LE(encoded(base, in_words).size(), 64u + 8 * 4);
    Page apart = base;
    for (int i = 0; i < 64; ++i) change(apart, random() % kPageSize, 1, random);
    ASSERT_LE(encoded(base, apart).size(), kPageSize / 10);
  }
}

TEST(Delta, HasTheBytesOfTheSpecification) {
  const Page base{};
  Page page{};
  page[0] = std::byte{0xAA};
  page[2] = std::byte{0xBB};  // One equal byte between: cheaper sent than skipped.
  page[300] = std::byte{0xCC};
  // 300 - 3 = 297 = 0x129 copied: 0xA9 0x02.
  EXPECT_EQ(encoded(base, page), bytes_of({0, 3, 0xAA, 0, 0xBB, 0xA9, 2, 1, 0xCC}));
}

TEST(Delta, WhatTheSpecificationForbidsIsRefused) {
  const Page base{};
  Page into;
  const auto complaint = [&](std::initializer_list<int> values) {
    const Status decoded = decode_delta(base, bytes_of(values), into);
    return decoded ? std::string() : decoded.error().message;
  };
  EXPECT_EQ(complaint({0, 1, 7}), "");
  EXPECT_EQ(complaint({0xFF, 0x1F, 1, 7}), "");  // The last byte of the page.
  EXPECT_THAT(complaint({}), HasSubstr("empty"));
  EXPECT_THAT(complaint({0}), HasSubstr("byte 1: the count of changed bytes"));
  EXPECT_THAT(complaint({0, 0}), HasSubstr("changed bytes"));            // No changed bytes.
  EXPECT_THAT(complaint({0, 2, 7}), HasSubstr("ends within"));           // Cut short.
  EXPECT_THAT(complaint({0, 1, 7, 3}), HasSubstr("byte 4: the count"));  // Copies at the end.
  EXPECT_THAT(complaint({0, 1, 7, 0, 1, 8}), HasSubstr("byte 3"));       // Adjacent operations.
  EXPECT_THAT(complaint({0x80, 0, 1, 7}), HasSubstr("byte 0"));          // 0 in two bytes.
  EXPECT_THAT(complaint({0, 0x81, 0, 7}), HasSubstr("byte 1"));          // 1 in two bytes.
  EXPECT_THAT(complaint({0x81, 0x80, 0, 1, 7}), HasSubstr("byte 0"));    // Three bytes.
  EXPECT_THAT(complaint({0x80, 0x20, 1, 7}), HasSubstr("byte 2"));       // From byte 4096 on.
  EXPECT_THAT(complaint({0x81, 0x20, 1, 7}), HasSubstr("byte 0"));       // Copies 4097.
  EXPECT_THAT(complaint({0xFF, 0x1F, 2, 7, 7}), HasSubstr("byte 2"));    // One byte too far.
  EXPECT_THAT(complaint({0x80}), HasSubstr("byte 0"));
  const Bytes long_one(kDeltaBytesMax + 1, std::byte{1});
  EXPECT_FALSE(decode_delta(base, long_one, into));
}

TEST(Delta, EveryPrefixAndEveryFlippedBitIsAsTheOracleSays) {
  std::mt19937_64 random(7);
  const Page base = random_page(random);
  Page page = base;
  for (int i = 0; i < 12; ++i) change(page, random() % kPageSize, 1 + random() % 150, random);
  const Bytes delta = encoded(base, page);
  ASSERT_FALSE(delta.empty());
  for (std::size_t keep = 0; keep < delta.size(); ++keep) {
    expect_as_the_oracle(base, {delta.begin(), delta.begin() + static_cast<std::ptrdiff_t>(keep)});
    if (HasFatalFailure()) FAIL() << "prefix of " << keep;
  }
  for (std::size_t bit = 0; bit < 8 * delta.size(); ++bit) {
    Bytes flipped = delta;
    flipped[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    expect_as_the_oracle(base, flipped);
    if (HasFatalFailure()) FAIL() << "bit " << bit;
  }
}

TEST(Delta, AnyBytesAreAsTheOracleSays) {
  std::mt19937_64 random(8);
  const Page base = random_page(random);
  int taken = 0;
  for (int repeat = 0; repeat < 20000; ++repeat) {
    Bytes delta(random() % 40);
    // Small numbers make valid operations likely.
    for (std::byte& byte : delta) {
      byte = static_cast<std::byte>(random() % 4 != 0 ? random() % 6 : random());
    }
    expect_as_the_oracle(base, delta);
    if (HasFatalFailure()) FAIL() << "repeat " << repeat;
    taken += naive_decode(base, delta) ? 1 : 0;
  }
  EXPECT_GT(taken, 100);
}

}  // namespace
}  // namespace migrate::wire
