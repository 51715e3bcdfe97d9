// The map of what is still to be filled, against a model of one entry a page.
#include "adapters/containers/target/fill_table.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace migrate::containers {
namespace {

constexpr std::uint64_t kPage = 4096;

void expect_like(const FillTable& table, const std::map<std::uint64_t, std::uint64_t>& model,
                 std::uint64_t pages, int step) {
  std::uint64_t content = 0;
  for (std::uint64_t page = 0; page < pages; ++page) {
    const FillExtent* extent = table.find(page * kPage);
    const bool has = extent != nullptr && extent->has_content();
    const auto wanted = model.find(page);
    ASSERT_EQ(has, wanted != model.end()) << "page " << page << " step " << step;
    if (!has) continue;
    content += kPage;
    ASSERT_EQ(extent->source + (page * kPage - extent->begin), wanted->second * kPage)
        << "page " << page << " step " << step;
  }
  ASSERT_EQ(table.content_bytes(), content) << step;
}

TEST(FillTable, KnowsAfterAnyChangeWhereEachPageIsStaged) {
  constexpr std::uint64_t kPages = 300;
  for (unsigned seed = 1; seed <= 30; ++seed) {
    std::minstd_rand random(seed);
    FillTable table;
    std::map<std::uint64_t, std::uint64_t> model;
    for (std::uint64_t page = 0; page < kPages; page += 10) {
      const std::uint64_t end = page + random() % 10 + 1;
      ASSERT_TRUE(table.add({page * kPage, end * kPage, (page + 1000) * kPage}));
      for (std::uint64_t at = page; at < end; ++at) model[at] = at + 1000;
    }
    for (int step = 0; step < 200; ++step) {
      const std::uint64_t first = random() % kPages;
      const std::uint64_t end = std::min<std::uint64_t>(first + random() % 20 + 1, kPages);
      const auto what = random() % 4;
      if (what == 0) {
        ASSERT_TRUE(table.empty_out(first * kPage, end * kPage));
        model.erase(model.lower_bound(first), model.lower_bound(end));
      } else if (what == 1) {
        ASSERT_TRUE(table.unmap(first * kPage, end * kPage));
        model.erase(model.lower_bound(first), model.lower_bound(end));
      } else {
        const std::uint64_t count = end - first;
        const std::uint64_t to = random() % (kPages - count);
        if (to < end && first < to + count) continue;  // The kernel refuses this.
        // As the kernel tells it: what lay there first.
        ASSERT_TRUE(table.unmap(to * kPage, (to + count) * kPage));
        ASSERT_TRUE(table.move(first * kPage, to * kPage, count * kPage));
        model.erase(model.lower_bound(to), model.lower_bound(to + count));
        for (std::uint64_t i = 0; i < count; ++i) {
          if (!model.contains(first + i)) continue;
          model[to + i] = model[first + i];
          model.erase(first + i);
        }
      }
      expect_like(table, model, kPages, step);
      if (testing::Test::HasFatalFailure()) FAIL() << "seed " << seed;
    }
  }
}

TEST(FillTable, AnUnmappingToldLateTakesNothingThatWasMovedThere) {
  FillTable table;
  ASSERT_TRUE(table.add({10 * kPage, 20 * kPage, 110 * kPage}));
  ASSERT_TRUE(table.add({30 * kPage, 40 * kPage, 130 * kPage}));
  // Another thread unmapped 10 to 20 before, and has yet to say so.
  ASSERT_TRUE(table.move(30 * kPage, 10 * kPage, 10 * kPage));
  ASSERT_TRUE(table.unmap(10 * kPage, 20 * kPage));
  const FillExtent* extent = table.find(12 * kPage);
  ASSERT_NE(extent, nullptr);
  EXPECT_EQ(extent->source + (12 * kPage - extent->begin), 132 * kPage);
  // The next one is meant.
  ASSERT_TRUE(table.unmap(10 * kPage, 20 * kPage));
  EXPECT_EQ(table.find(12 * kPage), nullptr);
}

TEST(FillTable, AChildFindsZerosWhereItsParentSaidThatItShould) {
  FillTable parent;
  ASSERT_TRUE(parent.add({10 * kPage, 12 * kPage, 110 * kPage}));
  ASSERT_TRUE(parent.add({12 * kPage, 14 * kPage, 112 * kPage, true}));
  // What becomes of it as a part, and elsewhere, is still meant.
  ASSERT_TRUE(parent.move(13 * kPage, 20 * kPage, kPage));
  FillTable child;
  ASSERT_TRUE(child.copy_from(parent));
  EXPECT_TRUE(child.find(11 * kPage)->has_content());
  EXPECT_FALSE(child.find(12 * kPage)->has_content());
  EXPECT_FALSE(child.find(20 * kPage)->has_content());
  EXPECT_EQ(child.content_bytes(), 2 * kPage);
  EXPECT_EQ(parent.content_bytes(), 4 * kPage);
}

TEST(FillTable, GivesContentInPiecesUpToTheBound) {
  FillTable table;
  ASSERT_TRUE(table.add({3 * kPage, 20 * kPage, 103 * kPage}));
  const FillExtent first = table.next_content(0, 8 * kPage);
  EXPECT_EQ(first.begin, 3 * kPage);
  EXPECT_EQ(first.end, 8 * kPage);
  ASSERT_TRUE(table.empty_out(first.begin, first.end));
  const FillExtent second = table.next_content(0, 8 * kPage);
  EXPECT_EQ(second.begin, 8 * kPage);
  EXPECT_EQ(second.end, 16 * kPage);
  EXPECT_EQ(second.source, 108 * kPage);
  EXPECT_EQ(table.next_content(20 * kPage, 8 * kPage).bytes(), 0u);
}

}  // namespace
}  // namespace migrate::containers
