// The mappings of a process as the kernel writes them, and the regions they make.
#include <gtest/gtest.h>

#include <sys/sysmacros.h>

#include "memory/process_maps.hpp"

namespace migrate {
namespace {

constexpr std::string_view kMaps =
    "55d0c8a00000-55d0c8a22000 r--p 00000000 fe:00 1049 /usr/bin/with space (deleted)\n"
    "55d0c9a00000-55d0c9a21000 rw-p 00000000 00:00 0                          [heap]\n"
    "7f0000000000-7f0000100000 ---p 00000000 00:00 0 \n"
    "7f0000200000-7f0000300000 rw-s 00001000 00:01 77 /memfd:name with space (deleted)\n"
    "7f0000400000-7f0000500000 rw-s 00000000 fe:00 12 /var/data\n"
    "7f0000600000-7f0000601000 rw-s 00000000 00:05 3 /dev/dri/card0\n"
    "7f0000700000-7f0000900000 rw-p 00000000 00:0f 9 /anon_hugepage (deleted)\n"
    "7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]\n"
    "7ffc00030000-7ffc00034000 r--p 00000000 00:00 0                          [vvar]\n"
    "7ffc00034000-7ffc00036000 r-xp 00000000 00:00 0                          [vdso]\n"
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

TEST(ProcessMaps, AreReadAsTheKernelWritesThem) {
  const auto mappings = parse_process_maps(kMaps);
  ASSERT_TRUE(mappings) << mappings.error().to_text();
  ASSERT_EQ(mappings->size(), 11U);
  const ProcessMapping& program = mappings->front();
  EXPECT_EQ(program.begin, 0x55d0c8a00000U);
  EXPECT_EQ(program.end, 0x55d0c8a22000U);
  EXPECT_TRUE(program.readable && !program.writable && !program.executable && !program.shared);
  EXPECT_EQ(program.device, makedev(0xfe, 0));
  EXPECT_EQ(program.inode, 1049U);
  EXPECT_EQ(program.name, "/usr/bin/with space (deleted)");
  EXPECT_EQ(program.backing, Backing::kFile);
  EXPECT_EQ((*mappings)[1].name, "[heap]");
  EXPECT_EQ((*mappings)[1].backing, Backing::kAnonymous);
  EXPECT_EQ((*mappings)[2].name, "");
  EXPECT_FALSE((*mappings)[2].readable);
  EXPECT_TRUE((*mappings)[3].shared);
  EXPECT_EQ((*mappings)[3].file_offset, 0x1000U);
  EXPECT_EQ((*mappings)[3].backing, Backing::kMemfd);
  EXPECT_EQ((*mappings)[6].backing, Backing::kHugetlb);
  EXPECT_EQ(mappings->back().end, 0xffffffffff601000U);
}

TEST(ProcessMaps, TellWhatBelongsToTheProcess) {
  const auto mappings = parse_process_maps(kMaps);
  ASSERT_TRUE(mappings);
  const std::vector<bool> expected = {true, true, true,  true,  false, false,
                                      true, true, false, false, false};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(belongs_to_process((*mappings)[i]), expected[i]) << (*mappings)[i].name;
  }
}

TEST(ProcessMaps, WhatTheKernelDoesNotWriteIsAnError) {
  for (const char* text : {
           "x\n",
           "1000-2000\n",
           "1000-2000 rw-p\n",
           "2000-1000 rw-p 00000000 00:00 0\n",
           "1001-2000 rw-p 00000000 00:00 0\n",
           "1000-2000 rw-p 00000000 0000 0\n",
           "1000-2000 rw-p 00000000 00:00\n",
           "1000-2000 rw-p 00000000 00:00 zero\n",
           "1000-20000000000000000 rw-p 00000000 00:00 0\n",
           "3000-4000 rw-p 00000000 00:00 0\n1000-2000 rw-p 00000000 00:00 0\n",
       }) {
    EXPECT_FALSE(parse_process_maps(text)) << text;
  }
  EXPECT_TRUE(parse_process_maps("")->empty());
  EXPECT_EQ(parse_process_maps("1000-2000 rw-p 00000000 00:00 0")->size(), 1U);
}

TEST(ProcessMaps, MappingsThatGrewWhileTheyWereReadDoNotOverlap) {
  const auto mappings = parse_process_maps(
      "1000-3000 rw-p 00000000 00:00 0\n2000-5000 r--p 00007000 00:11 9 /file\n"
      "0000-6000 rw-p 00000000 00:00 0\n");
  ASSERT_TRUE(mappings) << mappings.error().to_text();
  ASSERT_EQ(mappings->size(), 3U);
  EXPECT_EQ((*mappings)[1].begin, 0x3000U);
  EXPECT_EQ((*mappings)[1].end, 0x5000U);
  EXPECT_EQ((*mappings)[1].file_offset, 0x8000U);
  EXPECT_EQ((*mappings)[2].begin, 0x5000U);
}

/// Pages [begin, end) of anonymous memory.
ProcessMapping memory(std::uint64_t begin, std::uint64_t end) {
  ProcessMapping mapping;
  mapping.begin = begin * kPageSize;
  mapping.end = end * kPageSize;
  mapping.readable = mapping.writable = true;
  mapping.backing = Backing::kAnonymous;
  return mapping;
}
ProcessMapping file(std::uint64_t begin, std::uint64_t end, std::uint64_t inode,
                    std::uint64_t offset_pages, bool shared = false) {
  ProcessMapping mapping = memory(begin, end);
  mapping.inode = inode;
  mapping.file_offset = offset_pages * kPageSize;
  mapping.shared = shared;
  mapping.backing = Backing::kFile;
  return mapping;
}

/// A region by its id and pages.
struct Piece {
  std::uint32_t id;
  std::uint64_t begin;
  std::uint64_t end;
  friend bool operator==(const Piece&, const Piece&) = default;
};
void PrintTo(const Piece& piece, std::ostream* out) {
  *out << "#" << piece.id << " [" << piece.begin << "," << piece.end << ")";
}

/// Regions as two looks make them; those of the second.
std::vector<Piece> after(const std::vector<ProcessMapping>& first,
                         const std::vector<ProcessMapping>& second) {
  const auto all = [](const ProcessMapping&) { return true; };
  std::uint32_t next_id = 0;
  const auto old = next_regions({}, first, all, 7, next_id);
  std::vector<Piece> pieces;
  for (const ProcessRegion& region : next_regions(old, second, all, 7, next_id)) {
    EXPECT_EQ(region.region.id.space, 7U);
    const PageRange range = region.region.range;
    pieces.push_back({region.region.id.id, range.first.number, range.end().number});
  }
  return pieces;
}

TEST(ProcessRegions, FollowTheMappings) {
  using Pieces = std::vector<Piece>;
  struct Case {
    const char* what;
    std::vector<ProcessMapping> first;
    std::vector<ProcessMapping> second;
    Pieces expected;
  };
  const std::vector<Case> cases = {
      {"nothing changed",
       {memory(1, 5), memory(8, 9)},
       {memory(1, 5), memory(8, 9)},
       {{0, 1, 5}, {1, 8, 9}}},
      {"one is new", {memory(1, 5)}, {memory(1, 5), memory(8, 9)}, {{0, 1, 5}, {1, 8, 9}}},
      {"one is gone", {memory(1, 5), memory(8, 9)}, {memory(8, 9)}, {{1, 8, 9}}},
      {"growth at the end", {memory(1, 5)}, {memory(1, 7)}, {{0, 1, 5}, {1, 5, 7}}},
      {"growth at the beginning (a stack)", {memory(4, 8)}, {memory(2, 8)}, {{1, 2, 4}, {0, 4, 8}}},
      {"growth at both ends", {memory(4, 8)}, {memory(2, 9)}, {{1, 2, 4}, {0, 4, 8}, {2, 8, 9}}},
      {"two were joined", {memory(1, 3), memory(3, 5)}, {memory(1, 5)}, {{0, 1, 3}, {1, 3, 5}}},
      {"a gap was filled",
       {memory(1, 3), memory(5, 7)},
       {memory(1, 7)},
       {{0, 1, 3}, {2, 3, 5}, {1, 5, 7}}},
      {"split by rights", {memory(1, 9)}, {memory(1, 3), memory(3, 9)}, {{0, 1, 9}}},
      {"split, and the last part grew",
       {memory(1, 9)},
       {memory(1, 3), memory(3, 12)},
       {{0, 1, 9}, {1, 9, 12}}},
      {"unmapped in the middle",
       {memory(1, 9)},
       {memory(1, 3), memory(5, 9)},
       {{1, 1, 3}, {2, 5, 9}}},
      {"the end unmapped", {memory(1, 9)}, {memory(1, 8)}, {{1, 1, 8}}},
      {"moved", {memory(1, 5)}, {memory(11, 15)}, {{1, 11, 15}}},
      {"another file in its place", {file(1, 5, 3, 0)}, {file(1, 5, 4, 0)}, {{1, 1, 5}}},
      {"another part of the file", {file(1, 5, 3, 0)}, {file(1, 5, 3, 2)}, {{1, 1, 5}}},
      {"shared instead", {file(1, 5, 3, 0)}, {file(1, 5, 3, 0, true)}, {{1, 1, 5}}},
      {"a file split alike", {file(1, 5, 3, 6)}, {file(1, 2, 3, 6), file(2, 5, 3, 7)}, {{0, 1, 5}}},
      {"a file split, the second part from elsewhere",
       {file(1, 5, 3, 6)},
       {file(1, 2, 3, 6), file(2, 5, 3, 9)},
       {{1, 1, 2}, {2, 2, 5}}},
      {"a file over the middle of memory",
       {memory(1, 9)},
       {memory(1, 3), file(3, 5, 3, 0), memory(5, 9)},
       {{1, 1, 3}, {2, 3, 5}, {3, 5, 9}}},
      {"all gone", {memory(1, 9), file(20, 30, 1, 0)}, {}, {}},
  };
  for (const Case& each : cases) {
    EXPECT_EQ(after(each.first, each.second), each.expected) << each.what;
  }
}

TEST(ProcessRegions, AnIdIsNeverUsedAgain) {
  EXPECT_EQ(after({memory(1, 2), memory(4, 5)}, {memory(4, 6)}),
            (std::vector<Piece>{{1, 4, 5}, {2, 5, 6}}));
}

TEST(ProcessRegions, WhatIsNotWorthARegionBecomesNoneButKeepsOneItHad) {
  std::uint32_t next_id = 0;
  const auto none = [](const ProcessMapping&) { return false; };
  const auto all = [](const ProcessMapping&) { return true; };
  EXPECT_TRUE(next_regions({}, {memory(1, 5)}, none, 0, next_id).empty());
  const auto had = next_regions({}, {memory(1, 5)}, all, 0, next_id);
  EXPECT_EQ(next_regions(had, {memory(1, 5)}, none, 0, next_id), had);
}

TEST(ProcessRegions, DeltaTellsWhatCameAndWent) {
  const Region a{{0, 1, 0}, {{1}, 1}, Backing::kAnonymous};
  const Region b{{0, 2, 0}, {{5}, 1}, Backing::kAnonymous};
  const Region b_anew{{0, 2, 1}, {{5}, 1}, Backing::kAnonymous};
  const RegionDelta delta = delta_between({a, b}, {b_anew});
  EXPECT_EQ(delta.added, std::vector<Region>{b_anew});
  EXPECT_EQ(delta.removed, (std::vector<RegionId>{a.id, b.id}));
  EXPECT_TRUE(delta_between({a, b}, {b, a}).empty());
}

TEST(ProcessRegions, PartsOfMappingsKeepTheirPlaceInTheFile) {
  const std::vector<ProcessMapping> mappings = {memory(1, 3), file(3, 9, 4, 10), memory(9, 12)};
  const auto parts = clipped(mappings, 5 * kPageSize, 10 * kPageSize);
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_EQ(parts[0], file(5, 9, 4, 12));
  EXPECT_EQ(parts[1], memory(9, 10));
  EXPECT_TRUE(clipped(mappings, 12 * kPageSize, 20 * kPageSize).empty());
}

}  // namespace
}  // namespace migrate
