// What is kept of sent pages is only used while it is what the target has; what is said of equal
// pages is a hint.
#include "transport/sent_pages.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "transport/page_originals.hpp"
#include "wire/delta.hpp"

namespace migrate {
namespace {

using Page = std::array<std::byte, kPageSize>;
using Delta = std::array<std::byte, wire::kDeltaPaysBytes>;

Page page_of(std::uint8_t value) {
  Page page;
  for (std::size_t i = 0; i < page.size(); ++i) page[i] = static_cast<std::byte>(value + i % 7);
  return page;
}

TEST(SentPages, MakesTheNewContentOfWhatTheTargetHas) {
  SentPages sent(1 << 20);
  Delta delta{};
  const Page before = page_of(1);
  EXPECT_EQ(sent.replace(0, 5, before, 11, 99, 1, delta), 0U) << "nothing is kept of it yet";
  Page after = before;
  std::memset(after.data() + 100, 0x5a, 64);
  const std::size_t bytes = sent.replace(0, 5, after, 12, 11, 2, delta);
  ASSERT_GT(bytes, 0U);
  EXPECT_LT(bytes, kPageSize / 10);
  Page made = before;
  ASSERT_TRUE(wire::decode_delta(made, std::span(delta).first(bytes), made));
  EXPECT_EQ(made, after);
}

// Sent in another way meanwhile, or void after a lost link: its hash is not the one kept.
TEST(SentPages, IsNotUsedWhenTheTargetHasSomethingElse) {
  SentPages sent(1 << 20);
  Delta delta{};
  const Page first = page_of(1);
  Page next = first;
  next[7] = std::byte{0};
  EXPECT_EQ(sent.replace(3, 9, first, 21, 1, 1, delta), 0U);
  EXPECT_EQ(sent.replace(3, 9, next, 22, 20, 2, delta), 0U) << "the target has hash 20";
  EXPECT_GT(sent.replace(3, 9, first, 21, 22, 3, delta), 0U) << "what was sent last is kept";
  EXPECT_EQ(sent.replace(4, 9, next, 22, 21, 3, delta), 0U) << "another region's page";
}

TEST(SentPages, KeepsNoMoreThanItMayAndNothingWithoutMemory) {
  SentPages sent(16 * kPageSize);
  Delta delta{};
  for (std::uint64_t page = 0; page < 1000; ++page) {
    (void)sent.replace(0, page, page_of(static_cast<std::uint8_t>(page)), page + 1, 0, 1, delta);
  }
  std::uint64_t kept = 0;
  for (std::uint64_t page = 0; page < 1000; ++page) {
    Page changed = page_of(static_cast<std::uint8_t>(page));
    changed[0] = std::byte{0xff};
    // In the next round: nothing kept gives way to what was not.
    if (sent.replace(0, page, changed, page + 2000, page + 1, 2, delta) > 0) ++kept;
  }
  EXPECT_EQ(kept, 16U);
  SentPages none(0);
  EXPECT_EQ(none.replace(0, 1, page_of(1), 1, 0, 1, delta), 0U);
  EXPECT_EQ(none.replace(0, 1, page_of(2), 2, 1, 2, delta), 0U);
}

TEST(PageOriginals, FindsWhatWasNotedLastAndForgetsWhatCollides) {
  PageOriginals originals(64);
  EXPECT_FALSE(originals.find(5));
  originals.note(5, {wire::RegionHandle{2}, 0});
  ASSERT_TRUE(originals.find(5));
  EXPECT_EQ(*originals.find(5), (wire::PageReference{wire::RegionHandle{2}, 0}));
  originals.note(5 + 64, {wire::RegionHandle{65535}, (std::uint64_t{1} << 48) - 2});
  EXPECT_EQ(*originals.find(5),
            (wire::PageReference{wire::RegionHandle{65535}, (std::uint64_t{1} << 48) - 2}));
  originals.note(6, {wire::RegionHandle{65536}, 1});
  EXPECT_FALSE(originals.find(6)) << "a handle that does not fit is not kept";
  PageOriginals none(0);
  none.note(1, {wire::RegionHandle{0}, 1});
  EXPECT_FALSE(none.find(1));
}

}  // namespace
}  // namespace migrate
