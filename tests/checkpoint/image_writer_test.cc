#include "checkpoint/image_writer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <numeric>
#include <random>
#include <set>
#include <thread>

#include "tests/checkpoint/writer_bed.hpp"

namespace migrate::checkpoint {
namespace {

struct Case {
  CompressionChoice compress;
  unsigned lanes;
  FileOutputOptions file;
};

class EveryWayToWrite : public testing::TestWithParam<Case> {};

TEST_P(EveryWayToWrite, GivesTheMemoryBack) {
  const TestFolder folder;
  const Memory memory = mixed_memory({5000, 1, 700}, 7);
  const auto writer =
      writer_of(folder.file("a"), memory, {GetParam().compress, nullptr}, GetParam().file);
  ASSERT_TRUE(writer);
  add_all(*writer, memory, GetParam().lanes);
  const std::vector<std::byte> body(100'000, std::byte{5});
  const std::vector<Section> sections = {{{"cpu", 1, true}, body}};
  ASSERT_TRUE(writer->state(sections));
  const auto written = finish(*writer);

  expect_memory(folder.file("a"), memory);
  const auto chain = chain_of(folder.file("a"));
  EXPECT_EQ(chain->top().trailer().file_bytes, written.file_bytes);
  EXPECT_EQ(std::filesystem::file_size(folder.file("a")), written.file_bytes);
  const auto state = chain->state();
  ASSERT_TRUE(state) << state.error().to_text();
  ASSERT_EQ(state->size(), 1u);
  EXPECT_EQ((*state)[0].body, body);
  EXPECT_EQ(written.pages.parent, 0u);
  EXPECT_EQ(written.pages.stored + written.pages.zero + written.pages.duplicate, 5701u);
  EXPECT_GT(written.pages.zero, 1300u);
  EXPECT_GT(written.pages.duplicate, 1200u);

  const Blocks blocks = walk(folder.file("a"));
  EXPECT_EQ(blocks.pages, written.pages.stored);
  std::uint64_t all = 0;
  for (const auto& [type, count] : blocks.count) all += count;
  EXPECT_EQ(all, chain->top().trailer().blocks);
  if (GetParam().compress.mode == CompressionChoice::Mode::kZstd) {
    EXPECT_GT(blocks.count.at(BlockType::kPacked), 0u);
  }
  if (GetParam().compress.mode == CompressionChoice::Mode::kNone) {
    EXPECT_EQ(blocks.count.count(BlockType::kPacked), 0u);
  }
  EXPECT_EQ(folder.names(), std::set<std::string>{"a"});
}

INSTANTIATE_TEST_SUITE_P(All, EveryWayToWrite,
                         testing::Values(Case{kNone, 1, {}}, Case{kNone, 3, {}}, Case{kAuto, 2, {}},
                                         Case{kZstd, 1, {}}, Case{kZstd, 3, {}},
                                         Case{kZstd, 2, {.direct = false}},
                                         Case{kNone, 2, {.uring = false}},
                                         Case{kNone, 2, {.direct = false, .uring = false}}));

/// What a test changes goes to the memory that it compares with, too.
class Compressed : public testing::TestWithParam<CompressionChoice> {};
INSTANTIATE_TEST_SUITE_P(All, Compressed, testing::Values(kNone, kZstd));

TEST_P(Compressed, PagesInAnyOrderAreStoredInOrder) {
  const TestFolder folder;
  Memory memory = mixed_memory({3000}, 3);
  const auto writer = writer_of(folder.file("a"), memory, {GetParam(), nullptr});
  ASSERT_TRUE(writer);
  std::vector<std::uint64_t> order(3000);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(1));
  {
    Edit edit(*writer, memory);
    for (const std::uint64_t page : order) edit.add(0, page);
    edit.flush();
  }
  const auto written = finish(*writer);
  expect_memory(folder.file("a"), memory);
  const Blocks blocks = walk(folder.file("a"));
  EXPECT_EQ(blocks.pages, written.pages.stored);
  // Not a block a page.
  EXPECT_LT(blocks.count.at(GetParam() == kNone ? BlockType::kRaw : BlockType::kPacked), 60u);
}

TEST_P(Compressed, APageAddedAgainHoldsAsItWasAddedLast) {
  const TestFolder folder;
  Memory memory = {std::vector<std::byte>(2000 * kPageSize)};
  const auto writer = writer_of(folder.file("a"), memory, {GetParam(), nullptr});
  ASSERT_TRUE(writer);
  std::uint64_t seed = 1;
  {
    Edit a(*writer, memory);
    Edit b(*writer, memory);
    for (std::uint64_t page = 0; page < 600; ++page) a.random(0, page, seed++);
    // While one lane has them staged, by the other; the same; and after both were written.
    for (std::uint64_t page = 560; page < 620; ++page) b.random(0, page, seed++);
    for (std::uint64_t page = 580; page < 640; page += 2) a.random(0, page, seed++);
    for (std::uint64_t page = 590; page < 600; ++page) b.zero(0, page);
    for (std::uint64_t page = 595; page < 598; ++page) a.random(0, page, seed++);
    for (std::uint64_t page = 595; page < 598; ++page) a.random(0, page, seed++);
    b.flush();
    a.flush();
    for (std::uint64_t page = 0; page < 300; ++page) b.random(0, page, seed++);
    // Equal to one that is staged, of which another lane makes something else.
    for (std::uint64_t page = 1000; page < 1010; ++page) a.random(0, page, 77);
    b.random(0, 1000, seed++);
    b.random(0, 1001, seed++);
    a.zero(0, 1002);
    a.flush();
    b.flush();
    // Equal to one that is written, and then something else itself.
    a.random(0, 1500, 77);
    a.random(0, 1500, seed++);
    for (std::uint64_t page = 1003; page < 1009; ++page) b.zero(0, page);
    a.flush();
    b.flush();
  }
  const auto written = finish(*writer);
  expect_memory(folder.file("a"), memory);
  std::set<std::vector<std::byte>> different;
  std::uint64_t zero = 0;
  for (std::uint64_t page = 0; page < 2000; ++page) {
    const auto bytes = std::span(memory[0]).subspan(page * kPageSize, kPageSize);
    if (std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{}; })) {
      ++zero;
    } else {
      different.emplace(bytes.begin(), bytes.end());
    }
  }
  EXPECT_EQ(written.pages.zero, zero);
  EXPECT_EQ(written.pages.stored, different.size());
  EXPECT_EQ(written.pages.duplicate, 2000 - zero - different.size());
  walk(folder.file("a"));
}

TEST(ImageWriter, TheLaterContentOfAPageComesLaterInTheFile) {
  const TestFolder folder;
  Memory memory = {std::vector<std::byte>(500 * kPageSize)};
  const auto writer = writer_of(folder.file("a"), memory, {kNone, nullptr});
  ASSERT_TRUE(writer);
  {
    Edit early(*writer, memory);
    Edit late(*writer, memory);
    for (std::uint64_t page = 0; page < 100; ++page) early.random(0, page, page);
    for (std::uint64_t page = 50; page < 100; ++page) late.random(0, page, 1000 + page);
    late.flush();
    early.flush();
  }
  finish(*writer);
  expect_memory(folder.file("a"), memory);
  // The earlier content had not left: it never does.
  EXPECT_EQ(walk(folder.file("a")).pages, 100u);
}

TEST(ImageWriter, LanesThatTakePagesFromEachOtherAgree) {
  const TestFolder folder;
  constexpr unsigned kLanes = 4;
  constexpr std::uint64_t kPages = 4096;
  Memory memory = {std::vector<std::byte>(kPages * kPageSize)};
  const auto writer = writer_of(folder.file("a"), memory, {kZstd, nullptr});
  ASSERT_TRUE(writer);
  // Each page has an owner at a time; who is next in turn adds it again, on top of what is staged.
  std::vector<std::atomic<unsigned>> turns(kPages);
  std::vector<std::thread> threads;
  for (unsigned number = 0; number < kLanes; ++number) {
    threads.emplace_back([&, number] {
      Edit edit(*writer, memory);
      std::vector<std::uint64_t> left(kPages);
      std::iota(left.begin(), left.end(), 0);
      while (!left.empty()) {
        std::erase_if(left, [&](std::uint64_t page) {
          if (turns[page].load(std::memory_order_acquire) != (number + page) % kLanes) return false;
          if ((page + number) % 3 == 0) {
            edit.zero(0, page);
          } else {
            edit.random(0, page, page % 50 + number * 1000);
          }
          turns[page].store((number + page) % kLanes + 1, std::memory_order_release);
          return true;
        });
        std::this_thread::yield();
      }
      edit.flush();
    });
  }
  for (std::thread& thread : threads) thread.join();
  finish(*writer);
  expect_memory(folder.file("a"), memory);
  walk(folder.file("a"));
}

TEST(ImageWriter, EqualPagesAreStoredOnce) {
  const TestFolder folder;
  Memory memory = {std::vector<std::byte>(6000 * kPageSize),
                   std::vector<std::byte>(10 * kPageSize)};
  const auto writer = writer_of(folder.file("a"), memory, {kNone, nullptr});
  ASSERT_TRUE(writer);
  {
    Edit edit(*writer, memory);
    for (std::uint64_t page = 0; page < 6000; ++page) edit.random(0, page, page % 2);
    for (std::uint64_t page = 0; page < 10; ++page) edit.random(1, page, page % 2);
    edit.flush();
  }
  const auto written = finish(*writer);
  EXPECT_EQ(written.pages.stored, 2u);
  EXPECT_EQ(written.pages.duplicate, 6008u);
  EXPECT_EQ(walk(folder.file("a")).pages, 2u);
  expect_memory(folder.file("a"), memory);
}

TEST(ImageWriter, PagesThatAreNeverAddedAreZeroAndCostNothing) {
  const TestFolder folder;
  // 64 GiB, of which one page is there.
  Memory memory = {std::vector<std::byte>(kPageSize)};
  ImageDescription description = description_of(memory);
  description.guest.regions[0].range.count = 16 << 20;
  auto output = make_file_output(folder.file("a"));
  ASSERT_TRUE(output);
  auto writer = ImageWriter::create(std::move(*output), *new_header(nullptr), description, {});
  ASSERT_TRUE(writer);
  {
    auto lane = (*writer)->make_lane();
    ASSERT_TRUE(lane);
    fill_random(memory[0], 1);
    ASSERT_TRUE((*lane)->add(0, (16 << 20) - 1, memory[0].data()));
    ASSERT_TRUE((*lane)->flush());
  }
  const auto written = finish(**writer);
  EXPECT_EQ(written.pages.zero, (16u << 20) - 1);
  EXPECT_EQ(written.pages.stored, 1u);
  EXPECT_LT(written.file_bytes, 256u << 10);
  const auto chain = chain_of(folder.file("a"));
  std::array<FoundPage, 1> found;
  ASSERT_TRUE(chain->find(0, (16 << 20) - 1, found));
  EXPECT_NE(found[0].file, nullptr);
  ASSERT_TRUE(chain->find(0, 12345, found));
  EXPECT_EQ(found[0].file, nullptr);
}

TEST_P(Compressed, AnIncrementalImageHasWhatChanged) {
  const TestFolder folder;
  Memory memory = mixed_memory({9000, 3000}, 5);
  {
    const auto writer = writer_of(folder.file("base"), memory, {GetParam(), nullptr});
    ASSERT_TRUE(writer);
    add_all(*writer, memory, 2);
    finish(*writer);
  }
  const Memory base_memory = memory;
  const auto base = chain_of(folder.file("base"));
  ASSERT_TRUE(base);
  const auto writer = writer_of(folder.file("top"), memory, {GetParam(), base});
  ASSERT_TRUE(writer);
  {
    Edit edit(*writer, memory);
    for (std::uint64_t page = 40; page < 50; ++page) edit.random(0, page, 10'000 + page);
    // Added and as it was; zero now; zero before; zero and added as zero.
    for (std::uint64_t page = 50; page < 60; ++page) edit.add(0, page);
    for (std::uint64_t page = 60; page < 70; ++page) edit.zero(0, page);
    edit.random(0, 0, 20'000);
    edit.add(0, 1);
    // Changed, and back.
    const std::vector<std::byte> before(memory[0].begin() + 70 * kPageSize,
                                        memory[0].begin() + 71 * kPageSize);
    edit.random(0, 70, 30'000);
    edit.flush();
    std::ranges::copy(before, memory[0].begin() + 70 * kPageSize);
    edit.add(0, 70);
    edit.flush();
  }
  const auto written = finish(*writer);
  EXPECT_EQ(written.pages.stored, 11u);
  EXPECT_EQ(written.pages.zero, 11u);
  EXPECT_EQ(written.pages.duplicate, 0u);
  EXPECT_EQ(written.pages.parent, 12'000u - 22);
  expect_memory(folder.file("top"), memory);
  expect_memory(folder.file("base"), base_memory);
  const auto chain = chain_of(folder.file("top"));
  ASSERT_EQ(chain->files().size(), 2u);
  const Directory& directory = chain->top().directory();
  EXPECT_GT(directory.regions[0][0].where, Directory::kAllParent);
  EXPECT_EQ(directory.regions[0][1].where, Directory::kAllParent);
  EXPECT_EQ(directory.regions[1][0].where, Directory::kAllParent);
}

TEST(ImageWriter, ABaseOfOtherMemoryIsRefused) {
  const TestFolder folder;
  const Memory memory = mixed_memory({300}, 5);
  const auto full = writer_of(folder.file("base"), memory);
  ASSERT_TRUE(full);
  finish(*full);
  const auto base = chain_of(folder.file("base"));
  auto output = make_file_output(folder.file("top"));
  ASSERT_TRUE(output);
  const auto made =
      ImageWriter::create(std::move(*output), *new_header(base.get()),
                          description_of(mixed_memory({301}, 5)), {.compress = {}, .base = base});
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ErrorCode::kIncompatible);
  EXPECT_EQ(folder.names(), std::set<std::string>{"base"});
}

TEST(ImageWriter, PagesThatALaneKeptToItselfAreNoImage) {
  const TestFolder folder;
  Memory memory = {std::vector<std::byte>(10 * kPageSize)};
  {
    const auto writer = writer_of(folder.file("a"), memory);
    ASSERT_TRUE(writer);
    Edit(*writer, memory).random(0, 3, 1);
    const auto written = writer->finish();
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().code, ErrorCode::kInternal);
  }
  EXPECT_TRUE(folder.names().empty());
}

TEST(ImageWriter, AnInterruptedOneLeavesNothing) {
  const TestFolder folder;
  Memory memory = {std::vector<std::byte>(1000 * kPageSize)};
  {
    const auto writer = writer_of(folder.file("a"), memory);
    ASSERT_TRUE(writer);
    auto lane = writer->make_lane();
    ASSERT_TRUE(lane);
    fill_random(memory[0], 1);
    writer->interrupt();
    Status added;
    for (std::uint64_t page = 0; page < 1000 && added; ++page) {
      added = (*lane)->add(0, page, memory[0].data() + page * kPageSize);
    }
    ASSERT_FALSE(added);
    EXPECT_EQ(added.error().code, ErrorCode::kCancelled);
    lane->reset();
    const auto written = writer->finish();
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().code, ErrorCode::kCancelled);
  }
  EXPECT_TRUE(folder.names().empty());
}

TEST(ImageWriter, StateOfAnyLengthComesBack) {
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, kStatePartBytesMax - 40,
                                  kStatePartBytesMax, 3 * kStatePartBytesMax + 5}) {
    SCOPED_TRACE(bytes);
    const TestFolder folder;
    const Memory memory = {std::vector<std::byte>(10 * kPageSize)};
    const auto writer = writer_of(folder.file("a"), memory);
    ASSERT_TRUE(writer);
    std::vector<std::byte> body(bytes);
    for (std::size_t i = 0; i < bytes; ++i) body[i] = std::byte(i * 7 + i / 256);
    const std::vector<Section> sections = {{{"cpu", 1, true}, body}, {{"rest", 2, false}, {}}};
    ASSERT_TRUE(writer->state(sections));
    finish(*writer);
    const auto state = chain_of(folder.file("a"))->state();
    ASSERT_TRUE(state) << state.error().to_text();
    ASSERT_EQ(state->size(), 2u);
    EXPECT_EQ((*state)[0].body, body);
    walk(folder.file("a"));
  }
}

}  // namespace
}  // namespace migrate::checkpoint
