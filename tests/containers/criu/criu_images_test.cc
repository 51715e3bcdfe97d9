#include "adapters/containers/criu/criu_images.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <initializer_list>
#include <utility>

#include "base/bytes.hpp"

namespace migrate::containers {
namespace {

using testing::HasSubstr;

constexpr std::uint32_t kPstree = 0x50273030;
constexpr std::uint32_t kMemory = 0x57492820;
constexpr std::uint32_t kPagemap = 0x56084025;
constexpr std::uint64_t kPage = 4096;

using Bytes = std::vector<std::byte>;
using Fields = std::initializer_list<std::pair<unsigned, std::uint64_t>>;

void put_varint(Bytes& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<std::byte>(value | 0x80));
  out.push_back(static_cast<std::byte>(value));
}
Bytes message(Fields fields) {
  Bytes out;
  for (const auto& [number, value] : fields) {
    put_varint(out, number << 3);
    put_varint(out, value);
  }
  return out;
}
/// A message in a message.
void put_part(Bytes& out, unsigned number, const Bytes& part) {
  put_varint(out, number << 3 | 2);
  put_varint(out, part.size());
  out.insert(out.end(), part.begin(), part.end());
}
Bytes image(std::uint32_t magic, const std::vector<Bytes>& records) {
  Bytes out;
  ByteWriter writer(out);
  writer.put(std::uint32_t{0x54564319});
  writer.put(magic);
  for (const Bytes& record : records) {
    writer.put(static_cast<std::uint32_t>(record.size()));
    writer.bytes(record);
  }
  return out;
}
/// A process with a field that is not known here (its group) and two threads.
Bytes process(std::uint64_t pid, std::uint64_t parent) {
  return message({{1, pid}, {2, parent}, {3, 7}, {5, pid}, {5, pid + 100}});
}
Bytes area(std::uint64_t begin, std::uint64_t end, std::uint64_t flags, std::uint64_t status) {
  return message({{1, begin}, {2, end}, {3, 0}, {6, flags}, {7, status}, {8, 1}});
}
Bytes memory(const std::vector<Bytes>& areas) {
  Bytes out = message({{1, 0x400000}, {12, 3}});
  for (const Bytes& part : areas) put_part(out, 14, part);
  return image(kMemory, {out});
}
Bytes pagemap(const std::vector<Bytes>& entries) {
  std::vector<Bytes> records{message({{1, 1}})};
  records.insert(records.end(), entries.begin(), entries.end());
  return image(kPagemap, records);
}

Bytes good_pstree() { return image(kPstree, {process(10, 0), process(11, 10), process(12, 11)}); }
Bytes good_memory() {
  return memory({area(0x1000, 0x3000, 0x22, 0x201), area(0x3000, 0x4000, 0x02, 0x41)});
}
Bytes good_pagemap() {
  return pagemap({message({{1, 0x1000}, {2, 3}, {4, 4}}), message({{1, 0x8000}, {2, 1}, {4, 6}})});
}

TEST(CriuImages, TheTreeIsRead) {
  const auto tree = parse_pstree(good_pstree());
  ASSERT_TRUE(tree) << tree.error().to_text();
  ASSERT_EQ(tree->size(), 3u);
  EXPECT_EQ((*tree)[1].pid, 11);
  EXPECT_EQ((*tree)[1].parent, 10);
  EXPECT_THAT((*tree)[1].threads, testing::ElementsAre(11, 111));
}

TEST(CriuImages, LazyIsPrivateAnonymousMemoryThatIsNeitherLockedNorTheKernels) {
  struct Case {
    std::uint64_t flags, status;
    bool lazy;
  };
  const Case cases[] = {{0x22, 0x201, true},  {0x122, 0x201, true},   {0x21, 0x101, false},
                        {0x02, 0x41, false},  {0x2022, 0x201, false}, {0x40022, 0x201, false},
                        {0x22, 0x209, false}, {0x22, 0x1001, false},  {0x22, 0x5, false},
                        {0x4022, 0x223, true}};
  std::vector<Bytes> parts;
  for (std::uint64_t i = 0; i < std::size(cases); ++i) {
    parts.push_back(area((i + 1) * kPage, (i + 2) * kPage, cases[i].flags, cases[i].status));
  }
  const auto areas = parse_areas(memory(parts));
  ASSERT_TRUE(areas) << areas.error().to_text();
  ASSERT_EQ(areas->size(), std::size(cases));
  for (std::size_t i = 0; i < std::size(cases); ++i) {
    EXPECT_EQ((*areas)[i].lazy, cases[i].lazy) << i;
    EXPECT_EQ((*areas)[i].begin, (i + 1) * kPage);
  }
}

TEST(CriuImages, MemoryThatAChildFindsZeroIsKnown) {
  const Bytes wiped =
      message({{1, 0x1000}, {2, 0x2000}, {6, 0x22}, {7, 0x201}, {9, 1U << 18 | 1U << 16}});
  const Bytes copied =
      message({{1, 0x2000}, {2, 0x3000}, {6, 0x22}, {7, 0x201}, {9, 1U << 16 | 1U << 19}});
  const auto areas = parse_areas(memory({wiped, copied, area(0x3000, 0x4000, 0x22, 0x201)}));
  ASSERT_TRUE(areas) << areas.error().to_text();
  ASSERT_EQ(areas->size(), 3u);
  EXPECT_TRUE((*areas)[0].wiped);
  EXPECT_FALSE((*areas)[1].wiped);
  EXPECT_FALSE((*areas)[2].wiped);
}

TEST(CriuImages, GuardPagesBehindTheAreasAreNoAreas) {
  const auto areas =
      parse_areas(memory({area(0x1000, 0x9000, 0x22, 0x201), area(0x2000, 0x3000, 0, 1 << 16)}));
  ASSERT_TRUE(areas) << areas.error().to_text();
  EXPECT_EQ(areas->size(), 1u);
}

TEST(CriuImages, RunsOfPagesAreReadWithTheirKind) {
  const auto runs = parse_pagemap(good_pagemap());
  ASSERT_TRUE(runs) << runs.error().to_text();
  ASSERT_EQ(runs->size(), 2u);
  EXPECT_EQ((*runs)[0].pages, 3u);
  EXPECT_TRUE((*runs)[0].present);
  EXPECT_FALSE((*runs)[0].lazy);
  EXPECT_TRUE((*runs)[1].lazy);
}

TEST(CriuImages, ALongRunIsCountedByTheNewField) {
  const auto runs = parse_pagemap(pagemap({message({{1, 0}, {2, 0}, {4, 4}, {5, 1ULL << 33}})}));
  ASSERT_TRUE(runs) << runs.error().to_text();
  EXPECT_EQ(runs->at(0).pages, 1ULL << 33);
}

template <typename Parsed>
void expect_refused(const Result<Parsed>& parsed, const char* why) {
  ASSERT_FALSE(parsed) << why;
  EXPECT_EQ(parsed.error().code, ErrorCode::kProtocol);
  EXPECT_THAT(parsed.error().message, HasSubstr("byte"));
  EXPECT_THAT(parsed.error().message, HasSubstr(why));
}

TEST(CriuImages, TreesThatCannotBeAreRefused) {
  expect_refused(parse_pstree(image(kPstree, {})), "no process");
  expect_refused(parse_pstree(image(kPstree, {process(10, 0), process(10, 10)})), "twice");
  expect_refused(parse_pstree(image(kPstree, {process(0, 0)})), "cannot be");
  expect_refused(parse_pstree(image(kPstree, {process(1ULL << 31, 0)})), "cannot be");
  expect_refused(parse_pstree(image(kPstree, {process(10, 0), process(11, 12)})), "no parent");
  expect_refused(parse_pstree(image(kPstree, {message({{1, 1}, {2, 0}, {5, 0}})})), "a thread");
  expect_refused(parse_pstree(image(kMemory, {process(10, 0)})), "another kind");
}

TEST(CriuImages, AreasThatCannotBeAreRefused) {
  expect_refused(parse_areas(memory({area(0x3000, 0x3000, 2, 1)})), "no area");
  expect_refused(parse_areas(memory({area(0x1001, 0x3000, 2, 1)})), "no area");
  expect_refused(parse_areas(memory({area(0x1000, 0x3000, 2, 1), area(0x2000, 0x4000, 2, 1)})),
                 "no area");
  expect_refused(parse_areas(image(kMemory, {Bytes{}, Bytes{}})), "more than one");
}

TEST(CriuImages, PagesThatCannotBeAreRefused) {
  const auto one = [](Fields fields) { return parse_pagemap(pagemap({message(fields)})); };
  expect_refused(one({{1, 0x1000}, {2, 0}, {4, 4}}), "cannot be at");
  expect_refused(one({{1, 0x1001}, {2, 1}, {4, 4}}), "cannot be at");
  expect_refused(one({{1, 0x1000}, {2, 1}, {4, 4}, {5, 1ULL << 60}}), "cannot be at");
  expect_refused(one({{1, 0x1000}, {2, 1}, {4, 1}}), "other images");
  expect_refused(one({{1, 0x1000}, {2, 1}, {3, 1}}), "other images");
  expect_refused(one({{1, 0x1000}, {2, 1}, {4, 12}}), "unknown kind");
  expect_refused(parse_pagemap(pagemap({message({{1, 0x1000}, {2, 4}, {4, 4}}),
                                        message({{1, 0x2000}, {2, 1}, {4, 4}})})),
                 "cannot be at");
}

TEST(CriuImages, ALengthBeyondTheLimitIsRefusedBeforeItIsBelieved) {
  Bytes bytes = image(kPstree, {});
  ByteWriter(bytes).put(std::uint32_t{0xffffffff});
  expect_refused(parse_pstree(bytes), "too long");
}

/// Each shorter piece is refused, but for those that end with a record.
template <typename Parse>
void expect_short_refused(const Bytes& whole, Parse parse, std::size_t whole_records) {
  std::size_t accepted = 0;
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const auto parsed = parse(std::span(whole).first(size));
    if (parsed) {
      ++accepted;
    } else {
      EXPECT_EQ(parsed.error().code, ErrorCode::kProtocol) << size;
    }
  }
  EXPECT_EQ(accepted, whole_records);
}

TEST(CriuImages, WhatIsCutShortIsRefused) {
  expect_short_refused(good_pstree(), parse_pstree, 2);
  expect_short_refused(good_memory(), parse_areas, 0);
  expect_short_refused(good_pagemap(), parse_pagemap, 2);
}

TEST(CriuImages, NoFlippedBitDoesHarm) {
  const auto flip_all = [](const Bytes& whole, auto parse) {
    for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
      Bytes bytes = whole;
      bytes[bit / 8] ^= static_cast<std::byte>(1U << bit % 8);
      const auto parsed = parse(bytes);
      if (!parsed) {
        EXPECT_EQ(parsed.error().code, ErrorCode::kProtocol) << bit;
      }
      if (bit < 64) {
        EXPECT_FALSE(parsed) << "magic, bit " << bit;
      }
    }
  };
  flip_all(good_pstree(), parse_pstree);
  flip_all(good_memory(), parse_areas);
  flip_all(good_pagemap(), parse_pagemap);
}

}  // namespace
}  // namespace migrate::containers
