// Incremental images of process trees, whose mappings come and go from one to the next: a page is
// the one at its address.
#include <cstdlib>
#include <cstring>
#include <map>

#include "checkpoint/image_chain.hpp"
#include "checkpoint/page_places.hpp"
#include "migrate/image.hpp"
#include "tests/checkpoint/writer_bed.hpp"

namespace migrate::checkpoint {
namespace {

/// A tree's memory by space and page number.
using Content = std::map<std::pair<std::uint32_t, std::uint64_t>, std::vector<std::byte>>;

Region region(std::uint32_t space, std::uint32_t id, std::uint64_t first, std::uint64_t count) {
  Region made;
  made.id = {space, id, 0};
  made.range = {GuestPage{first}, count};
  made.backing = Backing::kAnonymous;
  return made;
}

ImageDescription tree_of(std::vector<Region> regions) {
  ImageDescription description;
  description.guest.kind = GuestKind::kContainer;
  description.guest.name = "tree";
  description.guest.vcpus = 1;
  description.guest.regions = std::move(regions);
  description.run_state = RunState::kRunning;
  description.host = "test";
  return description;
}

class ImageOfATree : public testing::Test {
 protected:
  void write(const std::string& name, std::vector<Region> regions,
             const std::shared_ptr<const ImageChain>& base = nullptr) {
    auto output = make_file_output(folder_.file(name));
    ASSERT_TRUE(output);
    ImageDescription description = tree_of(std::move(regions));
    if (base) description.parent_path = base->top().path();
    auto writer = ImageWriter::create(std::move(*output), *new_header(base.get()), description,
                                      {.compress = kNone, .base = base});
    ASSERT_TRUE(writer) << writer.error().to_text();
    {
      auto lane = (*writer)->make_lane();
      ASSERT_TRUE(lane);
      std::uint16_t number = 0;
      for (const Region& one : description.guest.regions) {
        for (std::uint64_t page = 0; page < one.range.count; ++page) {
          const auto at = content_.find({one.id.space, one.range.first.number + page});
          ASSERT_TRUE(at == content_.end() ? (*lane)->add_zero(number, page)
                                           : (*lane)->add(number, page, at->second.data()));
        }
        ++number;
      }
      ASSERT_TRUE((*lane)->flush());
    }
    written_ = finish(**writer);
  }

  void put(std::uint32_t space, std::uint64_t first, std::uint64_t count, std::uint64_t seed) {
    for (std::uint64_t page = first; page < first + count; ++page) {
      auto& bytes = content_[{space, page}];
      bytes.resize(kPageSize);
      fill_random(bytes, seed * 100'003 + page);
    }
  }

  /// As the regions of `name` have it, from the index and from the pages.
  void expect_content(const std::string& name) {
    Memory memory;
    const auto chain = chain_of(folder_.file(name));
    ASSERT_TRUE(chain);
    for (const Region& one : chain->regions()) {
      auto& bytes = memory.emplace_back(one.range.bytes());
      for (std::uint64_t page = 0; page < one.range.count; ++page) {
        const auto at = content_.find({one.id.space, one.range.first.number + page});
        if (at == content_.end()) continue;
        std::memcpy(bytes.data() + page * kPageSize, at->second.data(), kPageSize);
      }
      std::vector<std::uint64_t> hashes(one.range.count);
      const auto number = static_cast<std::uint16_t>(memory.size() - 1);
      ASSERT_TRUE(chain->hashes(number, 0, hashes));
      for (std::uint64_t page = 0; page < one.range.count; ++page) {
        const auto want = std::span(bytes).subspan(page * kPageSize, kPageSize);
        ASSERT_EQ(hashes[page], chain->digest().hash(want)) << number << " " << page;
      }
    }
    expect_memory(folder_.file(name), memory);
    const auto verified = verify_image(folder_.file(name));
    ASSERT_TRUE(verified) << verified.error().to_text();
    const std::string other = std::string(MIGRATE_VERIFY_IMAGE) + " " + folder_.file(name);
    EXPECT_EQ(std::system(other.c_str()), 0);
  }

  const TestFolder folder_;
  Content content_;
  ImageWriter::Written written_;
};

TEST_F(ImageOfATree, FindsItsPagesInABaseWithOtherRegions) {
  // Two processes; a heap of more than one part of the index.
  put(0, 1000, 5000, 1);
  put(0, 9000, 10, 2);
  put(1, 1000, 20, 3);
  write("full", {region(0, 0, 1000, 5000), region(0, 1, 9000, 10), region(1, 0, 1000, 20)});
  // The heap has grown at both ends, a mapping is gone, another one has come between, one has been
  // cut in two, and a page was written.
  for (std::uint64_t page = 9000; page < 9010; ++page) content_.erase({0, page});
  put(0, 990, 10, 4);
  put(0, 6000, 100, 5);
  put(0, 3000, 1, 6);
  put(0, 8000, 3, 7);
  const auto base = chain_of(folder_.file("full"));
  ASSERT_TRUE(base);
  write("second",
        {region(0, 0, 990, 5110), region(0, 7, 8000, 4), region(1, 3, 1000, 5),
         region(1, 4, 1010, 10)},
        base);
  EXPECT_EQ(written_.pages.stored, 10u + 100 + 1 + 3);
  EXPECT_EQ(written_.pages.parent, 4999u + 5 + 10);
  EXPECT_EQ(written_.pages.zero, 1u);
  expect_content("second");

  // What comes back is not taken for what was there two images before.
  put(0, 9000, 2, 8);
  put(0, 991, 1, 9);
  const auto second = chain_of(folder_.file("second"));
  ASSERT_TRUE(second);
  write("third", {region(1, 9, 1000, 5), region(0, 2, 980, 5120), region(0, 5, 9000, 10)}, second);
  EXPECT_EQ(written_.pages.stored, 3u);
  EXPECT_EQ(written_.pages.parent, 5109u + 5);
  EXPECT_EQ(written_.pages.zero, 10u + 8);
  expect_content("third");

  ASSERT_TRUE(flatten_image(folder_.file("third"), folder_.file("whole")));
  expect_content("whole");
  EXPECT_EQ(chain_of(folder_.file("whole"))->files().size(), 1u);
}

TEST_F(ImageOfATree, WhatNobodyAddedIsAsInTheBaseOrZero) {
  put(0, 1000, 10, 1);
  write("full", {region(0, 0, 1000, 10)});
  const auto base = chain_of(folder_.file("full"));
  auto output = make_file_output(folder_.file("second"));
  ASSERT_TRUE(base && output);
  ImageDescription description = tree_of({region(0, 0, 1005, 10)});
  description.parent_path = base->top().path();
  auto writer = ImageWriter::create(std::move(*output), *new_header(base.get()), description,
                                    {.compress = kNone, .base = base});
  ASSERT_TRUE(writer) << writer.error().to_text();
  const auto written = finish(**writer);
  EXPECT_EQ(written.pages.parent, 5u);
  EXPECT_EQ(written.pages.zero, 5u);
  const auto chain = chain_of(folder_.file("second"));
  ASSERT_TRUE(chain);
  std::vector<FoundPage> found(10);
  ASSERT_TRUE(chain->find(0, 0, found));
  for (std::size_t i = 0; i < 10; ++i) EXPECT_EQ(found[i].file != nullptr, i < 5) << i;
}

TEST_F(ImageOfATree, IsNotReadWithAParentThatLacksItsPages) {
  put(0, 1000, 10, 1);
  write("full", {region(0, 0, 1000, 10)});
  const auto base = chain_of(folder_.file("full"));
  ASSERT_TRUE(base);
  write("second", {region(0, 0, 1000, 10)}, base);
  // Another image that says it is the parent, with fewer regions.
  ImageHeader header = base->top().header();
  auto output = make_file_output(folder_.file("full"));
  ASSERT_TRUE(output);
  auto writer = ImageWriter::create(std::move(*output), header, tree_of({region(0, 0, 1000, 5)}),
                                    {.compress = kNone, .base = nullptr});
  ASSERT_TRUE(writer);
  {
    auto lane = (*writer)->make_lane();
    ASSERT_TRUE(lane);
    for (std::uint64_t page = 0; page < 5; ++page) {
      ASSERT_TRUE((*lane)->add(0, page, content_[{0, 1000 + page}].data()));
    }
    ASSERT_TRUE((*lane)->flush());
  }
  finish(**writer);
  const auto chain = chain_of(folder_.file("second"));
  ASSERT_TRUE(chain);
  std::vector<FoundPage> found(10);
  EXPECT_TRUE(chain->find(0, 0, std::span(found).first(5)));
  const Status beyond = chain->find(0, 0, found);
  ASSERT_FALSE(beyond);
  EXPECT_EQ(beyond.error().code, ErrorCode::kIntegrity);
  const std::string other = std::string(MIGRATE_VERIFY_IMAGE) + " " + folder_.file("second");
  EXPECT_NE(std::system((other + " 2>/dev/null").c_str()), 0);
}

TEST(PagePlaces, AreFoundByAddress) {
  const std::vector<Region> regions = {region(1, 0, 50, 5), region(0, 3, 100, 10),
                                       region(0, 1, 10, 10)};
  const PagePlaces places(regions);
  const auto found = [&](std::uint32_t space, std::uint64_t page, std::uint64_t count) {
    const auto run = places.find(space, GuestPage{page}, count);
    return std::vector<std::uint64_t>{run.region.value_or(99), run.first, run.count};
  };
  using V = std::vector<std::uint64_t>;
  EXPECT_EQ(found(0, 0, 5), (V{99, 0, 5}));
  EXPECT_EQ(found(0, 0, 50), (V{99, 0, 10}));
  EXPECT_EQ(found(0, 10, 50), (V{2, 0, 10}));
  EXPECT_EQ(found(0, 19, 1), (V{2, 9, 1}));
  EXPECT_EQ(found(0, 20, 500), (V{99, 0, 80}));
  EXPECT_EQ(found(0, 105, 500), (V{1, 5, 5}));
  EXPECT_EQ(found(0, 110, 500), (V{99, 0, 500}));
  EXPECT_EQ(found(1, 52, 500), (V{0, 2, 3}));
  EXPECT_EQ(found(2, 52, 500), (V{99, 0, 500}));
}

}  // namespace
}  // namespace migrate::checkpoint
