// Writes of another process that moves its memory about (mremap): memory that is not provably what
// was tracked counts as written.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "migrate/trackers.hpp"
#include "tests/dirtylog/area_shuffler.hpp"
#include "tests/dirtylog/writer_client.hpp"

namespace migrate::testing {
namespace {

/// What a migration would have of a process: the content of its regions, by their names.
class Copy {
 public:
  Copy(std::shared_ptr<ProcessMemory> memory, std::unique_ptr<DirtyTracker> tracker)
      : memory_(std::move(memory)), tracker_(std::move(tracker)) {}

  void start() {
    const Status started = tracker_->start();
    ASSERT_TRUE(started) << started.error().to_text();
    set_ = PageBitmap(memory_->known_regions());
    set_.set_all();
  }
  /// Reads what the set says.
  void take() {
    set_.for_each_run([&](const RegionId& region, PageRange run) {
      std::vector<std::byte> bytes(run.bytes());
      const auto outcome = memory_->read(region, run, bytes);
      ASSERT_TRUE(outcome) << outcome.error().to_text();
      if (*outcome == ReadOutcome::kGone) return;
      auto& pages = pages_[region];
      for (std::uint64_t i = 0; i < run.count; ++i) {
        const auto from = bytes.begin() + static_cast<std::ptrdiff_t>(i * kPageSize);
        pages[run.first.number + i].assign(from, from + kPageSize);
      }
    });
  }
  void collect() {
    set_.clear_all();
    const Status collected = tracker_->collect(set_);
    ASSERT_TRUE(collected) << collected.error().to_text();
    // Regions that are new are to be read whole.
    set_.reshape(memory_->known_regions(), true);
  }
  [[nodiscard]] bool is_dirty(std::uint64_t address) const {
    for (const auto& segment : set_.segments()) {
      const GuestPage page = GuestAddr{address}.page();
      if (segment.region.range.contains(page)) return set_.test(segment.region.id, page);
    }
    return false;
  }
  /// Of a process that stands still, with nothing left to take: how many pages of [begin, end)
  /// there are, of which each is right.
  std::uint64_t compare(const Writer& writer, std::uint64_t begin, std::uint64_t end) {
    std::uint64_t compared = 0;
    for (const Region& region : memory_->known_regions()) {
      const std::uint64_t first = region.range.first.number * kPageSize;
      if (first < begin || first >= end) continue;
      const auto truth = writer.memory(first, region.range.count);
      EXPECT_EQ(truth.size(), region.range.bytes());
      for (std::uint64_t i = 0; i < truth.size() / kPageSize; ++i, ++compared) {
        const auto& got = pages_[region.id][region.range.first.number + i];
        if (got.size() == kPageSize &&
            std::memcmp(got.data(), truth.data() + i * kPageSize, kPageSize) == 0) {
          continue;
        }
        ADD_FAILURE() << to_text(region.id) << " page " << i << " of " << region.range.count
                      << (got.empty() ? " never came" : " is an old one");
        return compared;
      }
    }
    forget_gone();
    return compared;
  }

 private:
  void forget_gone() {
    std::set<RegionId> known;
    for (const Region& region : memory_->known_regions()) known.insert(region.id);
    std::erase_if(pages_, [&](const auto& one) { return !known.contains(one.first); });
  }

  std::shared_ptr<ProcessMemory> memory_;
  std::unique_ptr<DirtyTracker> tracker_;
  PageBitmap set_;
  std::map<RegionId, std::map<std::uint64_t, std::vector<std::byte>>> pages_;
};

class ProcessRemap : public ::testing::Test {
 protected:
  void SetUp() override {
    auto memory = ProcessMemory::open(writer_.pid());
    ASSERT_TRUE(memory) << memory.error().to_text();
    auto tracker = make_process_write_protect_tracker(*memory);
    if (!tracker && tracker.error().code == ErrorCode::kUnsupported) {
      GTEST_SKIP() << tracker.error().to_text();
    }
    ASSERT_TRUE(tracker) << tracker.error().to_text();
    copy_ = std::make_unique<Copy>(*memory, *std::move(tracker));
  }
  /// Private memory of three pieces, with nothing beside it.
  std::uint64_t map_three() {
    const std::uint64_t room = writer_.number("reserve " + std::to_string(12 * kPiece));
    const std::uint64_t at = place(room, 1);
    EXPECT_EQ(writer_.number(words("map_at", at, 3 * kPiece)), at);
    EXPECT_EQ(writer_.ask(words("advise", at, 3 * kPiece, MADV_NOHUGEPAGE)), "ok");
    writer_.write(at, 3 * kPiece, 1);
    elsewhere_ = place(room, 8);
    return at;
  }
  void move(std::uint64_t from, std::uint64_t to) {
    ASSERT_EQ(writer_.number(words("move_to", from, kPiece, to)), to);
  }
  void collect_and_take() {
    copy_->collect();
    copy_->take();
  }
  /// Tracked; the middle one was elsewhere when they were last looked at.
  std::uint64_t three_whose_middle_came_back() {
    const std::uint64_t at = map_three();
    copy_->start();
    copy_->take();
    move(place(at, 1), elsewhere_);
    collect_and_take();
    move(elsewhere_, place(at, 1));
    return at;
  }
  static std::uint64_t place(std::uint64_t base, std::uint64_t number) {
    return base + number * kPiece * kPageSize;
  }
  static std::string words(const char* name, std::uint64_t a, std::uint64_t b,
                           std::uint64_t c = 0) {
    return std::string(name) + " " + std::to_string(a) + " " + std::to_string(b) + " " +
           std::to_string(c);
  }

  static constexpr std::uint64_t kPiece = 8;  // Pages.
  Writer writer_;
  std::unique_ptr<Copy> copy_;
  std::uint64_t elsewhere_ = 0;
};

// What comes back between its neighbours is one mapping with them, and the kernel takes the
// registration from all of it, though not the marks in the neighbours.
TEST_F(ProcessRemap, WritesBesideMemoryThatCameBackAreSeen) {
  const std::uint64_t at = three_whose_middle_came_back();
  writer_.write(at, 1, 2);
  writer_.write(place(at, 2), 1, 2);
  copy_->collect();
  EXPECT_TRUE(copy_->is_dirty(at)) << "before what came back";
  EXPECT_TRUE(copy_->is_dirty(place(at, 1)));
  EXPECT_TRUE(copy_->is_dirty(place(at, 2))) << "behind it";
}

TEST_F(ProcessRemap, WhatWasWrittenBesideMemoryThatCameBackIsArmed) {
  const std::uint64_t at = three_whose_middle_came_back();
  writer_.write(at, 3 * kPiece, 2);
  collect_and_take();
  collect_and_take();
  EXPECT_FALSE(copy_->is_dirty(at));
  writer_.write(at, 1, 3);
  writer_.write(place(at, 2), 1, 3);
  copy_->collect();
  EXPECT_TRUE(copy_->is_dirty(at)) << "before what came back";
  EXPECT_FALSE(copy_->is_dirty(place(at, 1)));
  EXPECT_TRUE(copy_->is_dirty(place(at, 2))) << "behind it";
}

// The marks go wherever the memory goes, and live as long as it does.
TEST_F(ProcessRemap, AnotherTrackerIsNotMisledByWhatTheFirstOneLeft) {
  const std::uint64_t at = three_whose_middle_came_back();
  writer_.write(at, 3 * kPiece, 2);
  copy_.reset();
  ASSERT_NO_FATAL_FAILURE(SetUp());
  copy_->start();
  copy_->take();
  writer_.write(at, 1, 3);
  copy_->collect();
  EXPECT_TRUE(copy_->is_dirty(at));
  EXPECT_FALSE(copy_->is_dirty(place(at, 2)));
}

// It is tracked all the while: only what is behind its end for a while is written anew.
TEST_F(ProcessRemap, MemoryThatShrankWhileItWasReadAndGrewAgainIsReadAgain) {
  const std::uint64_t at = map_three();
  ASSERT_EQ(writer_.ask(words("unmap", place(at, 3), kPiece)), "ok");
  copy_->start();
  ASSERT_EQ(writer_.number(words("remap", at, 3 * kPiece, 2 * kPiece)), at);
  copy_->take();
  ASSERT_EQ(writer_.number(words("remap", at, 2 * kPiece, 3 * kPiece)), at);
  collect_and_take();
  collect_and_take();
  ASSERT_TRUE(writer_.hold());
  collect_and_take();
  EXPECT_EQ(copy_->compare(writer_, at, place(at, 3)), 3 * kPiece);
}

TEST_F(ProcessRemap, MemoryThatCouldOnlyBeReadIsTrackedOnceItCanBeWritten) {
  const std::uint64_t at = writer_.number("map_read_only " + std::to_string(kPiece));
  copy_->start();
  copy_->take();
  collect_and_take();
  EXPECT_FALSE(copy_->is_dirty(at));
  ASSERT_EQ(writer_.number(words("map_writable", at, kPiece)), at);
  writer_.write(at, 1, 2);
  collect_and_take();
  EXPECT_TRUE(copy_->is_dirty(at));
  collect_and_take();
  EXPECT_FALSE(copy_->is_dirty(at));
  writer_.write(at + kPageSize, 1, 3);
  copy_->collect();
  EXPECT_FALSE(copy_->is_dirty(at));
  EXPECT_TRUE(copy_->is_dirty(at + kPageSize));
}

class ProcessShuffle : public ProcessRemap, public ::testing::WithParamInterface<Shuffling> {};

TEST_P(ProcessShuffle, LosesNoWrite) {
  const int looks = GetParam().huge ? 15 : 40;
  constexpr int kRoundsALook = 8;
  const char* const given = std::getenv("MIGRATE_SHUFFLE_SEED");
  const std::string seed = given == nullptr ? std::to_string(GetParam().seed) : given;
  SCOPED_TRACE("MIGRATE_SHUFFLE_SEED=" + seed);
  ASSERT_EQ(writer_.ask("start_shuffling " + seed + " " + std::to_string(GetParam().writes) + " " +
                        std::to_string(GetParam().pieces) + (GetParam().huge ? " 1" : " 0")),
            "ok");
  copy_->start();
  copy_->take();
  std::uint64_t compared = 0;
  for (int look = 0; look < looks && !HasFailure(); ++look) {
    const std::uint64_t before = writer_.number("writes");
    for (int round = 0; round < kRoundsALook && !HasFailure(); ++round) collect_and_take();
    ASSERT_TRUE(wait_for([&] { return writer_.number("writes") > before; }));
    ASSERT_TRUE(writer_.hold()) << "the writer's state is " << writer_.state();
    collect_and_take();
    collect_and_take();
    compared += copy_->compare(writer_, kShuffledArea, kShuffledArea + kShuffledBytes);
    writer_.let_go();
  }
  EXPECT_GT(compared, 1000U);
}

// Many changes between two looks, some, and about one.
INSTANTIATE_TEST_SUITE_P(Areas, ProcessShuffle,
                         ::testing::Values(Shuffling{1, 100, kPiecesMax, false},
                                           Shuffling{1, 20'000, kPiecesMax, false},
                                           Shuffling{1, 200'000, kPiecesMax, false},
                                           Shuffling{1, 100'000, 4, true}),
                         [](const auto& param) {
                           return std::to_string(param.param.writes) +
                                  (param.param.huge ? "WritesOfHugePages" : "Writes");
                         });

}  // namespace
}  // namespace migrate::testing
