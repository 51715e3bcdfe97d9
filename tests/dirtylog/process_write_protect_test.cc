// Writes of another process, tracked by write protection.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <map>
#include <optional>

#include "dirtylog/soft_dirty.hpp"
#include "migrate/trackers.hpp"
#include "tests/dirtylog/writer_client.hpp"

namespace migrate::testing {
namespace {

using Pages = std::vector<std::uint64_t>;  // By their number in an area.
using Maker = Result<std::unique_ptr<DirtyTracker>> (*)(std::shared_ptr<ProcessMemory>);
struct Kind {
  const char* name;
  Maker make;
};

class ProcessTracker : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    auto opened = ProcessMemory::open(writer_.pid());
    ASSERT_TRUE(opened) << opened.error().to_text();
    memory_ = *std::move(opened);
    auto made = GetParam().make(memory_);
    if (!made && made.error().code == ErrorCode::kUnsupported) {
      GTEST_SKIP() << made.error().to_text();
    }
    ASSERT_TRUE(made) << made.error().to_text();
    tracker_ = *std::move(made);
  }
  void TearDown() override { EXPECT_TRUE(tracker_ == nullptr || tracker_->stop()); }
  void start() {
    const Status started = tracker_->start();
    ASSERT_TRUE(started) << started.error().to_text();
    set_ = PageBitmap(memory_->known_regions());
  }
  /// As a migration does it: takes what was written, then learns of the regions.
  void collect() {
    set_.clear_all();
    const Status collected = tracker_->collect(set_);
    ASSERT_TRUE(collected) << collected.error().to_text();
  }
  /// Of an area, pages in the set.
  Pages dirty(std::uint64_t at, std::uint64_t pages) const {
    Pages found;
    for (const auto& segment : set_.segments()) {
      for (std::uint64_t i = 0; i < pages; ++i) {
        const GuestPage page = GuestAddr{at}.page() + i;
        if (segment.region.range.contains(page) && set_.test(segment.region.id, page)) {
          found.push_back(i);
        }
      }
    }
    return found;
  }
  std::optional<Region> region_at(std::uint64_t address) {
    for (const Region& region : memory_->known_regions()) {
      if (region.range.contains(GuestAddr{address}.page())) return region;
    }
    return std::nullopt;
  }
  static std::string call(const char* name, std::uint64_t a, std::uint64_t b = 0,
                          std::uint64_t c = 0) {
    return std::string(name) + " " + std::to_string(a) + " " + std::to_string(b) + " " +
           std::to_string(c);
  }
  std::uint64_t page(std::uint64_t at, std::uint64_t number) const {
    return at + number * kPageSize;
  }
  /// New memory at `at` is known, dirty as a whole, and armed: a write after the collect is found.
  void expect_new_and_armed(std::uint64_t at, std::uint64_t pages) {
    const auto region = region_at(at);
    ASSERT_TRUE(region);
    EXPECT_EQ(set_.find(region->id), nullptr) << "a name nobody had before";
    set_ = PageBitmap(memory_->known_regions());
    writer_.write(page(at, pages / 2), 1, 4711);
    collect();
    EXPECT_EQ(dirty(at, pages), Pages{pages / 2});
  }

  Writer writer_;
  std::shared_ptr<ProcessMemory> memory_;
  std::unique_ptr<DirtyTracker> tracker_;
  PageBitmap set_;
};

TEST_P(ProcessTracker, FindsWrittenPagesAndNoOthers) {
  const std::uint64_t at = writer_.map(200);
  writer_.write(at, 100, 1);
  start();
  collect();
  collect();
  EXPECT_EQ(dirty(at, 200), Pages{});
  writer_.write(page(at, 3), 2, 2);
  writer_.write(page(at, 150), 1, 2);
  collect();
  EXPECT_EQ(dirty(at, 200), (Pages{3, 4, 150}));
  collect();
  EXPECT_EQ(dirty(at, 200), Pages{});
}

TEST_P(ProcessTracker, PeekTakesNothing) {
  const std::uint64_t at = writer_.map(50);
  writer_.write(at, 50, 1);
  start();
  collect();
  writer_.write(page(at, 7), 1, 2);
  for (int i = 0; i < 2; ++i) {
    set_.clear_all();
    ASSERT_TRUE(tracker_->peek(set_));
    EXPECT_EQ(dirty(at, 50), Pages{7});
  }
  collect();
  EXPECT_EQ(dirty(at, 50), Pages{7});
}

TEST_P(ProcessTracker, SeesTheKernelAndOtherProcessesWriteThere) {
  const std::uint64_t at = writer_.map(50);
  const std::uint64_t shared = writer_.number("map_shared 50");
  writer_.write(at, 50, 1);
  writer_.write(shared, 50, 1);
  start();
  collect();
  ASSERT_EQ(writer_.ask(call("read_into", page(at, 5), 2, 9)), "ok");
  std::uint64_t value = 12;
  const iovec here{&value, sizeof(value)};
  const iovec there{reinterpret_cast<void*>(page(at, 20) + 8), sizeof(value)};
  ASSERT_EQ(::process_vm_writev(writer_.pid(), &here, 1, &there, 1, 0), 8);
  writer_.write(page(shared, 30), 1, 3);
  collect();
  EXPECT_EQ(dirty(at, 50), (Pages{5, 6, 20}));
  EXPECT_EQ(dirty(shared, 50), Pages{30});
}

TEST_P(ProcessTracker, DiscardedMemoryIsDirty) {
  const std::uint64_t at = writer_.map(50);
  writer_.write(at, 50, 1);
  start();
  collect();
  ASSERT_EQ(writer_.ask(call("discard", page(at, 10), 3)), "ok");
  collect();
  EXPECT_EQ(dirty(at, 50), (Pages{10, 11, 12}));
}

TEST_P(ProcessTracker, NewMemoryIsARegionAndArmedBeforeItCanBeRead) {
  start();
  const std::uint64_t at = writer_.map(40);
  writer_.write(at, 40, 1);
  collect();
  expect_new_and_armed(at, 40);
}

TEST_P(ProcessTracker, AGrownHeapIsANewRegion) {
  start();
  const std::uint64_t at = writer_.number("grow_heap 60");
  writer_.write(at, 60, 1);
  collect();
  expect_new_and_armed(at, 60);
}

TEST_P(ProcessTracker, MovedMemoryIsANewRegion) {
  const std::uint64_t at = writer_.map(30);
  const std::uint64_t room = writer_.map(90);
  writer_.write(at, 30, 1);
  start();
  const auto before = region_at(at);
  ASSERT_TRUE(before);
  const std::uint64_t to = page(room, 30);
  ASSERT_EQ(writer_.number(call("move_to", at, 30, to)), to);
  collect();
  EXPECT_FALSE(region_at(at));
  const auto after = region_at(to);
  ASSERT_TRUE(after);
  EXPECT_EQ(set_.find(after->id), nullptr) << "the former content's name is not used again";
  set_ = PageBitmap(memory_->known_regions());
  writer_.write(page(to, 4), 1, 2);
  collect();
  EXPECT_EQ(dirty(to, 30), Pages{4});
}

TEST_P(ProcessTracker, MemoryMappedAnewInPlaceIsANewGeneration) {
  const std::uint64_t at = writer_.map(30);
  writer_.write(at, 30, 1);
  start();
  collect();
  ASSERT_EQ(writer_.number(call("map_at", page(at, 10), 5)), page(at, 10));
  collect();
  if (GetParam().name == std::string_view("soft_dirty")) {
    const Pages found = dirty(at, 30);
    for (std::uint64_t i = 10; i < 15; ++i) EXPECT_TRUE(std::count(found.begin(), found.end(), i));
  } else {
    expect_new_and_armed(at, 30);
  }
}

TEST_P(ProcessTracker, VanishedMemoryIsARemovedRegion) {
  const std::uint64_t at = writer_.map(30);
  start();
  const auto before = region_at(at);
  ASSERT_TRUE(before);
  ASSERT_EQ(writer_.ask(call("unmap", at, 30)), "ok");
  collect();
  EXPECT_FALSE(region_at(at));
  std::vector<std::byte> bytes(kPageSize);
  const auto outcome = memory_->read(before->id, {before->range.first, 1}, bytes);
  ASSERT_TRUE(outcome);
  EXPECT_EQ(*outcome, ReadOutcome::kGone);
}

TEST_P(ProcessTracker, PagesOfARegionTheSetLacksAreKept) {
  const std::uint64_t at = writer_.map(30);
  const std::uint64_t other = writer_.number("map_shared 30");
  writer_.write(at, 30, 1);
  writer_.write(other, 30, 1);
  start();
  collect();
  writer_.write(page(at, 3), 1, 2);
  writer_.write(page(other, 4), 1, 2);
  const PageBitmap whole = set_;
  set_ = PageBitmap(std::vector<Region>{*region_at(other)});
  collect();
  EXPECT_EQ(dirty(other, 30), Pages{4});
  set_ = whole;
  collect();
  EXPECT_EQ(dirty(at, 30), Pages{3});
  EXPECT_EQ(dirty(other, 30), Pages{});
}

TEST_P(ProcessTracker, ARegionOthersSawFirstIsDirtyAsAWhole) {
  start();
  const std::uint64_t at = writer_.map(40);
  const auto regions = memory_->regions();
  ASSERT_TRUE(regions);
  // Read by now, for all the tracker knows.
  set_ = PageBitmap(*regions);
  writer_.write(page(at, 5), 1, 1);
  collect();
  EXPECT_EQ(dirty(at, 40).size(), 40U);
  writer_.write(page(at, 6), 1, 1);
  collect();
  EXPECT_EQ(dirty(at, 40), Pages{6});
}

TEST_P(ProcessTracker, AForkedChildIsNotTrackedAndItsParentStillIs) {
  const std::uint64_t at = writer_.map(60);
  writer_.write(at, 60, 1);
  start();
  collect();
  const std::string child = writer_.ask(call("fork_writer", at, 20, 99));
  writer_.write(page(at, 40), 2, 2);
  collect();
  Pages found = dirty(at, 60);
  EXPECT_TRUE(std::count(found.begin(), found.end(), 40U) &&
              std::count(found.begin(), found.end(), 41U));
  EXPECT_EQ(std::count_if(found.begin(), found.end(), [](auto i) { return i < 20; }), 0)
      << "the child's writes are its own";
  writer_.write(page(at, 5), 1, 3);
  collect();
  EXPECT_EQ(dirty(at, 60), Pages{5});
  EXPECT_EQ(writer_.ask("end_child " + child), "ok");
}

TEST_P(ProcessTracker, TheEndOfTheProcessIsNoFailure) {
  start();
  collect();
  writer_.end();
  set_.clear_all();
  const Status collected = tracker_->collect(set_);
  EXPECT_TRUE(collected) << collected.error().to_text();
  EXPECT_TRUE(memory_->known_regions().empty());
  EXPECT_TRUE(tracker_->peek(set_));
}

TEST_P(ProcessTracker, AnotherProgramIsNotTracked) {
  start();
  collect();
  ASSERT_EQ(writer_.ask("execute_again"), "ready");
  const Status collected = tracker_->collect(set_);
  EXPECT_TRUE(collected) << collected.error().to_text();
  EXPECT_TRUE(memory_->known_regions().empty());
}

TEST_P(ProcessTracker, CanStopAndStartAgain) {
  const std::uint64_t at = writer_.map(60);
  for (int i = 0; i < 3; ++i) {
    writer_.write(at, 60, 1);
    start();
    EXPECT_EQ(tracker_->start().error().code, ErrorCode::kBusy);
    writer_.write(page(at, 9), 1, 2);
    collect();
    EXPECT_EQ(dirty(at, 60), Pages{9});
    ASSERT_TRUE(tracker_->stop());
  }
  writer_.write(at, 60, 3);
  EXPECT_FALSE(tracker_->collect(set_));
}

/// A target that is filled as a migration fills it.
class Copy {
 public:
  void take(ProcessMemory& memory, const PageBitmap& set) {
    set.for_each_run([&](const RegionId& region, PageRange run) {
      std::vector<std::byte> bytes(run.bytes());
      const auto outcome = memory.read(region, run, bytes);
      ASSERT_TRUE(outcome) << outcome.error().to_text();
      if (*outcome == ReadOutcome::kGone) return;
      for (std::uint64_t i = 0; i < run.count; ++i) {
        const auto from = bytes.begin() + static_cast<std::ptrdiff_t>(i * kPageSize);
        pages_[run.first.number + i].assign(from, from + kPageSize);
      }
    });
  }
  /// A range's content; pages that never came are empty.
  [[nodiscard]] const std::vector<std::byte>& page(std::uint64_t address) {
    return pages_[GuestAddr{address}.page().number];
  }

 private:
  std::map<std::uint64_t, std::vector<std::byte>> pages_;
};

TEST_P(ProcessTracker, LosesNothingBesideWritersAtFullSpeedAndMappingsThatChange) {
  constexpr std::uint64_t kPages = 512;
  constexpr int kRounds = 150;
  const std::uint64_t at = writer_.map(kPages);
  start();
  ASSERT_EQ(writer_.ask(call("start_writers", at, kPages, 2)), "ok");
  Copy copy;
  set_.set_all();
  std::uint64_t extra = 0;
  for (int round = 0; round < kRounds; ++round) {
    copy.take(*memory_, set_);
    // Beside the writers, memory comes, is written, moves and goes.
    if (round % 4 == 0) extra = writer_.map(20);
    if (round % 4 == 1) writer_.write(extra, 20, static_cast<std::uint64_t>(round));
    if (round % 4 == 2) extra = writer_.number(call("remap", extra, 20, 50));
    if (round % 4 == 3 && round != kRounds - 3) writer_.ask(call("unmap", extra, 50));
    collect();
    set_.reshape(memory_->known_regions(), true);
  }
  EXPECT_GT(writer_.number("stop_writers"), 1000U);
  copy.take(*memory_, set_);
  collect();
  set_.reshape(memory_->known_regions(), true);
  writer_.signal(SIGSTOP);
  ASSERT_TRUE(wait_for([&] { return writer_.state() == 'T'; }));
  copy.take(*memory_, set_);
  collect();
  set_.reshape(memory_->known_regions(), true);
  copy.take(*memory_, set_);
  std::uint64_t compared = 0;
  for (const Region& region : memory_->known_regions()) {
    const std::uint64_t first = region.range.first.number * kPageSize;
    const auto truth = writer_.memory(first, region.range.count);
    if (truth.size() != region.range.bytes()) continue;  // Behind a file's end.
    for (std::uint64_t i = 0; i < region.range.count; ++i, ++compared) {
      const auto& got = copy.page(first + i * kPageSize);
      ASSERT_EQ(got.size(), kPageSize) << to_text(region.id) << " page " << i;
      ASSERT_EQ(std::memcmp(got.data(), truth.data() + i * kPageSize, kPageSize), 0)
          << to_text(region.id) << " page " << i;
    }
  }
  EXPECT_GE(compared, kPages);
}

INSTANTIATE_TEST_SUITE_P(Kinds, ProcessTracker,
                         ::testing::Values(Kind{"write_protect",
                                                make_process_write_protect_tracker},
                                           Kind{"soft_dirty", make_soft_dirty_tracker}),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(ProcessWriteProtect, HolesAreKnownWhileTrackedAndWrittenPagesAreNone) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root is shown which holes are protected ones";
  constexpr std::uint64_t kPages = 100;
  Writer writer;
  const std::uint64_t at = writer.map(kPages);
  ASSERT_EQ(writer.ask("advise " + std::to_string(at) + " 100 " + std::to_string(MADV_NOHUGEPAGE)),
            "ok");
  writer.write(at, 10, 1);
  auto memory = ProcessMemory::open(writer.pid());
  ASSERT_TRUE(memory);
  auto tracker = make_process_write_protect_tracker(*memory);
  ASSERT_TRUE(tracker);
  ASSERT_TRUE((*tracker)->start());
  writer.write(at + 50 * kPageSize, 1, 1);
  PageBitmap holes((*memory)->known_regions());
  const GuestPage first = GuestAddr{at}.page();
  for (const Region& region : (*memory)->known_regions()) {
    if (!region.range.contains(first)) continue;
    ASSERT_TRUE((*memory)->holes(region.id, holes));
    for (std::uint64_t i = 0; i < kPages; ++i) {
      EXPECT_EQ(holes.test(region.id, first + i), i >= 10 && i != 50) << i;
    }
  }
  EXPECT_FALSE(holes.empty());
}

TEST(SoftDirty, SaysWhyItIsNotSupportedWhereItIsNot) {
  const Status supported = soft_dirty_supported();
  if (supported) return;
  EXPECT_EQ(supported.error().code, ErrorCode::kUnsupported);
  EXPECT_FALSE(supported.error().remedy.empty());
}

TEST(ProcessWriteProtect, TheTrackersDeathLeavesTheProcessRunning) {
  constexpr std::uint64_t kPages = 256;
  Writer writer;
  const std::uint64_t at = writer.map(kPages);
  writer.write(at, kPages, 1);
  ASSERT_EQ(writer.ask("start_writers " + std::to_string(at) + " 256 2"), "ok");
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    auto memory = ProcessMemory::open(writer.pid());
    auto tracker = memory ? make_process_write_protect_tracker(*memory) : memory.error();
    if (!tracker || !(*tracker)->start()) ::_exit(1);
    (void)!::write(ready[1], "x", 1);
    for (;;) {
      PageBitmap set((*memory)->known_regions());
      if (!(*tracker)->collect(set)) ::_exit(1);
    }
  }
  ::close(ready[1]);
  char byte = 0;
  EXPECT_EQ(::read(ready[0], &byte, 1), 1);
  ::close(ready[0]);
  EXPECT_EQ(::kill(child, SIGKILL), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  const std::uint64_t writes = writer.number("writes");
  EXPECT_TRUE(wait_for([&] { return writer.number("writes") > writes + 1000; }));
  writer.ask("stop_writers");
  writer.write(at, kPages, 0x77);
  const auto bytes = writer.memory(at, kPages);
  for (std::uint64_t i = 0; i < kPages; ++i) EXPECT_EQ(bytes[i * kPageSize], std::byte{0x77});
  // And another tracker can have it.
  auto memory = ProcessMemory::open(writer.pid());
  ASSERT_TRUE(memory);
  auto tracker = make_process_write_protect_tracker(*memory);
  ASSERT_TRUE(tracker);
  EXPECT_TRUE((*tracker)->start());
}

TEST(ProcessWriteProtect, IsRefusedWhereMemoryIsTrackedAlready) {
  Writer writer;
  auto memory = ProcessMemory::open(writer.pid());
  ASSERT_TRUE(memory);
  auto first = make_process_write_protect_tracker(*memory);
  auto second = make_process_write_protect_tracker(*memory);
  ASSERT_TRUE(first && second);
  ASSERT_TRUE((*first)->start());
  const Status refused = (*second)->start();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBusy) << refused.error().to_text();
  ASSERT_TRUE((*first)->stop());
  EXPECT_TRUE((*second)->start());
}

}  // namespace
}  // namespace migrate::testing
