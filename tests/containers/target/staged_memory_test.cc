// The staging of a tree's memory.
#include "adapters/containers/target/staged_memory.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace migrate::containers {
namespace {

Region region(std::uint32_t space, std::uint32_t id, std::uint64_t first, std::uint64_t count,
              std::uint32_t generation = 0) {
  return {{space, id, generation}, {{first}, count}, Backing::kAnonymous};
}

std::unique_ptr<StagedMemory> staged() {
  auto made = StagedMemory::create();
  EXPECT_TRUE(made);
  return *std::move(made);
}

std::uint64_t taken_bytes(const StagedMemory& memory) {
  struct stat status {};
  EXPECT_EQ(::fstat(memory.memfd(), &status), 0);
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

std::size_t mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) ++count;
  return count;
}

TEST(StagedMemory, GivesBackWhatWasWrittenAndZerosElsewhere) {
  auto memory = staged();
  const Region one = region(0, 1, 0x1000, 4);
  ASSERT_TRUE(memory->update_regions({{one}, {}}));
  const std::vector<std::byte> content(kPageSize, std::byte{7});
  ASSERT_TRUE(memory->write(one.id, {{0x1002}, 1}, content));
  std::vector<std::byte> all(4 * kPageSize, std::byte{1});
  ASSERT_TRUE(memory->read(one.id, one.range, all));
  for (std::size_t i = 0; i < all.size(); ++i) {
    ASSERT_EQ(all[i], i / kPageSize == 2 ? std::byte{7} : std::byte{0});
  }
  EXPECT_EQ(memory->mapped(one.id)[2 * kPageSize], std::byte{7});
  EXPECT_EQ(memory->at(memory->regions()[0].offset), memory->mapped(one.id).data());
  ASSERT_TRUE(memory->zero(one.id, {{0x1002}, 1}));
  EXPECT_EQ(memory->mapped(one.id)[2 * kPageSize], std::byte{0});
  EXPECT_FALSE(memory->write(one.id, {{0x1003}, 2}, std::vector<std::byte>(2 * kPageSize)));
  EXPECT_FALSE(memory->write(one.id, {{0x1003}, 1}, {}));
}

TEST(StagedMemory, ZeroedAndRemovedMemoryIsGivenBack) {
  auto memory = staged();
  const Region big = region(0, 1, 0x1000, 4096);
  ASSERT_TRUE(memory->update_regions({{big}, {}}));
  std::ranges::fill(memory->mapped(big.id), std::byte{1});
  EXPECT_GE(taken_bytes(*memory), big.range.bytes());
  ASSERT_TRUE(memory->zero(big.id, {{0x1000}, 2048}));
  EXPECT_LE(taken_bytes(*memory), big.range.bytes() / 2);
  ASSERT_TRUE(memory->update_regions({{}, {big.id}}));
  EXPECT_EQ(taken_bytes(*memory), 0u);
  EXPECT_TRUE(memory->mapped(big.id).empty());
}

TEST(StagedMemory, ThousandsOfRegionsTakeAFewMappings) {
  auto memory = staged();
  RegionDelta delta;
  for (std::uint32_t i = 0; i < 20'000; ++i)
    delta.added.push_back(region(0, i, 10 * i + 1, i % 9 + 1));
  const std::size_t before = mappings();
  ASSERT_TRUE(memory->update_regions(delta));
  EXPECT_LE(mappings(), before + 10);
  memory->mapped(delta.added[9999].id)[0] = std::byte{9};
  EXPECT_EQ(memory->mapped(delta.added[10000].id)[0], std::byte{0});
  EXPECT_EQ(memory->regions().size(), delta.added.size());
}

TEST(StagedMemory, AChangedRegionIsANewOneAndReadsAsZero) {
  auto memory = staged();
  const Region old = region(3, 1, 100, 10);
  ASSERT_TRUE(memory->update_regions({{old}, {}}));
  memory->mapped(old.id)[0] = std::byte{5};
  const Region again = region(3, 1, 105, 20, 1);
  ASSERT_TRUE(memory->update_regions({{again}, {old.id}}));
  EXPECT_EQ(memory->mapped(again.id)[0], std::byte{0});
  EXPECT_TRUE(memory->mapped(old.id).empty());
}

TEST(StagedMemory, RefusesRegionsThatNoProcessCanHave) {
  auto memory = staged();
  ASSERT_TRUE(memory->update_regions({{region(0, 1, 100, 10)}, {}}));
  EXPECT_TRUE(memory->update_regions({{region(0, 1, 100, 10)}, {}}));  // Told twice.
  EXPECT_TRUE(memory->update_regions({{region(1, 1, 100, 10)}, {}}));  // Of another process.
  EXPECT_FALSE(memory->update_regions({{region(0, 1, 100, 11)}, {}}));
  EXPECT_FALSE(memory->update_regions({{region(0, 2, 109, 1)}, {}}));
  EXPECT_FALSE(memory->update_regions({{region(0, 2, 90, 11)}, {}}));
  EXPECT_FALSE(memory->update_regions({{region(0, 2, 90, 100)}, {}}));
  EXPECT_FALSE(memory->update_regions({{region(0, 2, 200, 0)}, {}}));
  EXPECT_FALSE(memory->update_regions({{region(0, 2, ~0ull, 1)}, {}}));
  EXPECT_FALSE(memory->update_regions({{region(0, 2, 1000, ~0ull)}, {}}));
  EXPECT_FALSE(memory->update_regions({{}, {{0, 9, 0}}}));
  EXPECT_TRUE(memory->update_regions({{region(0, 2, 110, 1), region(0, 3, 99, 1)}, {}}));
}

TEST(StagedMemory, MoreThanThereAreAddressesIsAnErrorAndNoCrash) {
  auto memory = staged();
  const Status made = memory->update_regions({{region(0, 1, 0, std::uint64_t{1} << 43)}, {}});
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ErrorCode::kNoMemory);
}

}  // namespace
}  // namespace migrate::containers
