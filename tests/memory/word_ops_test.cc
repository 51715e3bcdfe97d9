// Each way of working on words against a loop over bits.
#include <gtest/gtest.h>

#include <bit>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "memory/word_ops.hpp"
#include "migrate/memory.hpp"

namespace migrate {
namespace {

using Words = std::vector<std::uint64_t>;

constexpr std::uint64_t kOnes = ~std::uint64_t{0};

/// All that there are on this processor.
std::vector<const WordOps*> all_ops() {
  std::vector<const WordOps*> all = {&portable_word_ops()};
  if (avx2_word_ops() != nullptr) all.push_back(avx2_word_ops());
  return all;
}

/// Words of zeros, of ones and of anything, in stretches.
Words stretches(std::size_t count, std::mt19937_64& random) {
  Words words;
  while (words.size() < count) {
    const std::uint64_t kind = random() % 4;
    const std::size_t length = 1 + random() % (kind < 2 ? 60 : 3);
    for (std::size_t i = 0; i < length && words.size() < count; ++i) {
      const std::uint64_t one_bit = std::uint64_t{1} << (random() % 64);
      words.push_back(kind == 0 ? 0 : kind == 1 ? kOnes : kind == 2 ? random() : one_bit);
    }
  }
  return words;
}

class EachWay : public ::testing::TestWithParam<const WordOps*> {
 protected:
  void SetUp() override { use_word_ops(GetParam()); }
  void TearDown() override { use_word_ops(nullptr); }
  const WordOps& ops() { return *GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(WordOps, EachWay, ::testing::ValuesIn(all_ops()),
                         [](const auto& test) { return test.param->name; });

TEST_P(EachWay, CombinesAndCountsAsALoopDoes) {
  std::mt19937_64 random(3);
  for (std::size_t count = 0; count < 140; ++count) {
    for (std::size_t offset = 0; offset < 4; ++offset) {  // Where registers do not begin.
      SCOPED_TRACE(std::to_string(count) + " words from " + std::to_string(offset));
      const Words a = stretches(count + 8, random);
      const Words b = stretches(count + 8, random);
      Words merged = a;
      Words rest = a;
      Words both = a;
      ops().merge(merged.data() + offset, b.data() + offset, count);
      ops().subtract(rest.data() + offset, b.data() + offset, count);
      ops().intersect(both.data() + offset, b.data() + offset, count);
      std::uint64_t bits = 0;
      for (std::size_t i = 0; i < a.size(); ++i) {
        const bool inside = i >= offset && i < offset + count;
        ASSERT_EQ(merged[i], inside ? a[i] | b[i] : a[i]) << i;
        ASSERT_EQ(rest[i], inside ? a[i] & ~b[i] : a[i]) << i;
        ASSERT_EQ(both[i], inside ? a[i] & b[i] : a[i]) << i;
        for (unsigned bit = 0; inside && bit < 64; ++bit) bits += (a[i] >> bit) & 1;
      }
      ASSERT_EQ(ops().count(a.data() + offset, count), bits);
    }
  }
}

TEST_P(EachWay, CountsMoreThanAByteHolds) {
  const Words full(5000, kOnes);
  EXPECT_EQ(ops().count(full.data(), full.size()), 5000u * 64);
}

TEST_P(EachWay, SkipsToTheFirstWordThatDiffers) {
  std::mt19937_64 random(5);
  for (int i = 0; i < 3000; ++i) {
    const Words words = stretches(1 + random() % 200, random);
    const std::size_t end = random() % (words.size() + 1);
    const std::size_t from = random() % (end + 1);
    for (const std::uint64_t value : {std::uint64_t{0}, kOnes}) {
      std::size_t expected = from;
      while (expected < end && words[expected] == value) ++expected;
      ASSERT_EQ(ops().skip(words.data(), from, end, value), expected) << from << " to " << end;
    }
  }
}

/// A set's bits one by one.
std::vector<PageRange> runs_of(const PageBitmap& set, const Region& region, GuestPage from,
                               GuestPage limit) {
  std::vector<PageRange> runs;
  for (GuestPage page = from; page < limit; page = page + 1) {
    if (!set.test(region.id, page)) continue;
    if (!runs.empty() && runs.back().end() == page) {
      ++runs.back().count;
    } else {
      runs.push_back({page, 1});
    }
  }
  return runs;
}

PageBitmap random_set(const Region& region, std::mt19937_64& random) {
  PageBitmap set(std::span(&region, 1));
  auto& words = set.segments().front().words;
  words = stretches(words.size(), random);
  const std::uint64_t past = region.range.count % 64;
  if (past != 0) words.back() &= (std::uint64_t{1} << past) - 1;
  return set;
}

TEST_P(EachWay, FindsTheRunsOfASetAndNoOthers) {
  std::mt19937_64 random(11);
  for (int i = 0; i < 300; ++i) {
    const Region region{{0, 1, 0}, {{random() % 1000}, 1 + random() % 9000}, Backing::kMemfd};
    const PageBitmap set = random_set(region, random);
    SCOPED_TRACE(std::to_string(i));
    std::vector<PageRange> whole;
    set.for_each_run([&](const RegionId&, PageRange run) { whole.push_back(run); });
    ASSERT_EQ(whole, runs_of(set, region, region.range.first, region.range.end()));
    const std::uint64_t begin = random() % region.range.count;
    const GuestPage from = region.range.first + begin;
    const GuestPage limit = from + random() % (region.range.count - begin + 1);
    std::vector<PageRange> part;
    const auto& segment = set.segments().front();
    PageRange run = next_run(segment, from, limit);
    for (; !run.empty(); run = next_run(segment, run.end(), limit)) part.push_back(run);
    ASSERT_EQ(run.first, limit);
    ASSERT_EQ(part, runs_of(set, region, from, limit));
    std::uint64_t pages = 0;
    for (const PageRange& one : whole) pages += one.count;
    ASSERT_EQ(set.count(), pages);
    ASSERT_EQ(set.empty(), pages == 0);
  }
}

TEST_P(EachWay, SetsAreCombinedPageByPage) {
  std::mt19937_64 random(13);
  for (int i = 0; i < 100; ++i) {
    const Region region{{0, 1, 0}, {{7}, 1 + random() % 9000}, Backing::kMemfd};
    const PageBitmap a = random_set(region, random);
    const PageBitmap b = random_set(region, random);
    PageBitmap merged = a;
    PageBitmap rest = a;
    PageBitmap both = a;
    PageBitmap self = a;
    merged.merge(b);
    rest.subtract(b);
    both.intersect(b);
    self.merge(self);
    self.intersect(self);
    for (GuestPage page = region.range.first; page < region.range.end(); page = page + 1) {
      const bool in_a = a.test(region.id, page);
      const bool in_b = b.test(region.id, page);
      ASSERT_EQ(merged.test(region.id, page), in_a || in_b);
      ASSERT_EQ(rest.test(region.id, page), in_a && !in_b);
      ASSERT_EQ(both.test(region.id, page), in_a && in_b);
      ASSERT_EQ(self.test(region.id, page), in_a);
    }
    self.subtract(self);
    ASSERT_TRUE(self.empty());
  }
}

TEST(WordOps, EveryProcessorThatHasAvx2UsesIt) {
  if (avx2_word_ops() == nullptr) GTEST_SKIP() << "this processor has no AVX2";
  EXPECT_EQ(&word_ops(), avx2_word_ops());
}

}  // namespace
}  // namespace migrate
