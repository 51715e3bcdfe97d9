// The memory of another process: what is read is what it holds, or gone.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <optional>

#include "migrate/process_memory.hpp"
#include "tests/dirtylog/writer_client.hpp"

namespace migrate::testing {
namespace {

class ForeignProcess : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = ProcessMemory::open(writer_.pid(), 3);
    ASSERT_TRUE(opened) << opened.error().to_text();
    memory_ = *std::move(opened);
  }
  /// The known region that has all of these pages.
  std::optional<Region> region_at(std::uint64_t address, std::uint64_t pages = 1) {
    const PageRange range{GuestAddr{address}.page(), pages};
    for (const Region& region : memory_->known_regions()) {
      if (region.range.contains(range)) return region;
    }
    return std::nullopt;
  }
  std::vector<std::byte> read(const Region& region, std::uint64_t address, std::uint64_t pages) {
    std::vector<std::byte> bytes(pages * kPageSize, std::byte{0x5a});
    const auto outcome = memory_->read(region.id, {GuestAddr{address}.page(), pages}, bytes);
    EXPECT_TRUE(outcome) << outcome.error().to_text();
    if (!outcome || *outcome == ReadOutcome::kGone) bytes.clear();
    return bytes;
  }
  static std::string call(const char* name, std::uint64_t a, std::uint64_t b, std::uint64_t c = 0) {
    return std::string(name) + " " + std::to_string(a) + " " + std::to_string(b) + " " +
           std::to_string(c);
  }

  Writer writer_;
  std::shared_ptr<ProcessMemory> memory_;
};

TEST_F(ForeignProcess, ReadsWhatTheProcessWrote) {
  const std::uint64_t at = writer_.map(600);
  writer_.write(at, 600, 0x1234567890abcdefU);
  ASSERT_TRUE(memory_->refresh());
  const auto region = region_at(at, 600);
  ASSERT_TRUE(region);
  EXPECT_EQ(region->id.space, 3U);
  EXPECT_EQ(region->backing, Backing::kAnonymous);
  EXPECT_EQ(read(*region, at, 600), writer_.memory(at, 600));
  EXPECT_EQ(read(*region, at + 17 * kPageSize, 3), writer_.memory(at + 17 * kPageSize, 3));
  EXPECT_TRUE(memory_->mapped(region->id).empty());
}

TEST_F(ForeignProcess, EveryRegionCanBeRead) {
  std::uint64_t bytes_read = 0;
  for (const Region& region : memory_->known_regions()) {
    const std::uint64_t at = region.range.first.number * kPageSize;
    EXPECT_EQ(read(region, at, region.range.count).size(), region.range.bytes())
        << to_text(region.id);
    bytes_read += region.range.bytes();
    EXPECT_FALSE(memory_->mappings(region.id).empty());
  }
  EXPECT_GT(bytes_read, 0U);
  for (const Region& region : memory_->known_regions()) {
    for (const ProcessMapping& mapping : memory_->mappings(region.id)) {
      EXPECT_NE(mapping.name, "[vdso]");
      EXPECT_NE(mapping.name, "[vvar]");
    }
  }
}

TEST_F(ForeignProcess, ReadsMemoryTheProcessMayNotTouchItself) {
  const std::uint64_t at = writer_.map(8);
  writer_.write(at, 8, 77);
  ASSERT_EQ(writer_.ask(call("protect", at + 2 * kPageSize, 3, PROT_NONE)), "ok");
  ASSERT_TRUE(memory_->refresh());
  const auto region = region_at(at, 2);
  ASSERT_TRUE(region);
  const auto barred = region_at(at + 2 * kPageSize, 3);
  ASSERT_TRUE(barred) << "it holds something";
  EXPECT_EQ(read(*barred, at + 2 * kPageSize, 3), writer_.memory(at + 2 * kPageSize, 3));
}

TEST_F(ForeignProcess, ARegionKeepsItsNameWhenRightsChange) {
  const std::uint64_t at = writer_.map(8);
  ASSERT_TRUE(memory_->refresh());
  const auto region = region_at(at, 8);
  ASSERT_TRUE(region);
  ASSERT_EQ(writer_.ask(call("protect", at + 2 * kPageSize, 3, PROT_NONE)), "ok");
  const auto delta = memory_->refresh();
  ASSERT_TRUE(delta);
  EXPECT_EQ(region_at(at, 8), region);
  EXPECT_EQ(memory_->mappings(region->id).size(), 3U);
  EXPECT_EQ(read(*region, at, 8).size(), 8 * kPageSize);
}

TEST_F(ForeignProcess, ReservedAddressSpaceIsNoRegionUntilItIsUsed) {
  const std::uint64_t pages = (std::uint64_t{1} << 40) / kPageSize;
  const std::uint64_t at = writer_.number("reserve " + std::to_string(pages));
  ASSERT_NE(at, 0U);
  ASSERT_TRUE(memory_->refresh());
  EXPECT_FALSE(region_at(at));
  ASSERT_EQ(writer_.ask(call("protect", at + 64 * kPageSize, 4, PROT_READ | PROT_WRITE)), "ok");
  ASSERT_TRUE(memory_->refresh());
  EXPECT_FALSE(region_at(at));
  const auto region = region_at(at + 64 * kPageSize, 4);
  ASSERT_TRUE(region);
  EXPECT_EQ(region->range.count, 4U);
}

TEST_F(ForeignProcess, UnmappedMemoryIsGoneAndTheRestBeginsAnew) {
  const std::uint64_t at = writer_.map(9);
  ASSERT_TRUE(memory_->refresh());
  const auto region = region_at(at, 9);
  ASSERT_TRUE(region);
  ASSERT_EQ(writer_.ask(call("unmap", at + 4 * kPageSize, 2)), "ok");
  EXPECT_TRUE(read(*region, at, 9).empty()) << "gone before the next look, too";
  const auto delta = memory_->refresh();
  ASSERT_TRUE(delta);
  EXPECT_TRUE(std::find(delta->removed.begin(), delta->removed.end(), region->id) !=
              delta->removed.end());
  EXPECT_TRUE(read(*region, at, 1).empty());
  EXPECT_EQ(region_at(at, 4)->range.count, 4U);
  EXPECT_EQ(region_at(at + 6 * kPageSize, 3)->range.count, 3U);
}

TEST_F(ForeignProcess, RenewGivesANewGenerationAndEndsTheOld) {
  const std::uint64_t at = writer_.map(4);
  ASSERT_TRUE(memory_->refresh());
  const auto region = region_at(at, 4);
  ASSERT_TRUE(region);
  memory_->renew(region->id);
  EXPECT_TRUE(read(*region, at, 4).empty());
  const auto anew = region_at(at, 4);
  ASSERT_TRUE(anew);
  EXPECT_EQ(anew->id.id, region->id.id);
  EXPECT_EQ(anew->id.generation, region->id.generation + 1);
  const auto delta = memory_->refresh();
  ASSERT_TRUE(delta);
  EXPECT_EQ(delta->added, std::vector<Region>{*anew});
  EXPECT_EQ(delta->removed, std::vector<RegionId>{region->id});
}

TEST_F(ForeignProcess, RegionsOfOthersLooksAreStillInTheNextDelta) {
  const std::uint64_t at = writer_.map(4);
  ASSERT_TRUE(memory_->regions());
  const auto delta = memory_->refresh();
  ASSERT_TRUE(delta);
  EXPECT_TRUE(std::any_of(delta->added.begin(), delta->added.end(), [&](const Region& region) {
    return region.range.contains(GuestAddr{at}.page());
  }));
}

TEST_F(ForeignProcess, HolesAreWhatWasNeverTouched) {
  const std::uint64_t at = writer_.map(1000);
  writer_.write(at + 100 * kPageSize, 50, 1);
  ASSERT_TRUE(memory_->refresh());
  const auto region = region_at(at, 1000);
  ASSERT_TRUE(region);
  PageBitmap holes(memory_->known_regions());
  ASSERT_TRUE(memory_->holes(region->id, holes));
  for (std::uint64_t i = 0; i < 1000; ++i) {
    // Huge pages may be there in full: what is a hole is a hole, what was written is none.
    const bool hole = holes.test(region->id, GuestAddr{at}.page() + i);
    EXPECT_FALSE(hole && i >= 100 && i < 150) << i;
    if (!hole) continue;
    const auto bytes = writer_.memory(at + i * kPageSize, 1);
    EXPECT_TRUE(
        std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{}; }));
  }
  ASSERT_EQ(writer_.ask(call("discard", at + 100 * kPageSize, 10)), "ok");
  ASSERT_TRUE(memory_->holes(region->id, holes));
  EXPECT_TRUE(holes.test(region->id, GuestAddr{at}.page() + 105));
}

TEST_F(ForeignProcess, SharedMemoryHasNoKnownHoles) {
  const std::uint64_t at = writer_.number("map_shared 16");
  ASSERT_TRUE(memory_->refresh());
  const auto region = region_at(at, 16);
  ASSERT_TRUE(region);
  EXPECT_EQ(region->backing, Backing::kMemfd);
  PageBitmap holes(memory_->known_regions());
  ASSERT_TRUE(memory_->holes(region->id, holes));
  EXPECT_TRUE(holes.empty());
}

TEST_F(ForeignProcess, MemoryMappedAnewWhileItIsReadIsNoError) {
  constexpr int kReads = 20000;
  const std::uint64_t at = writer_.map(1);
  ASSERT_TRUE(memory_->refresh());
  const auto region = region_at(at);
  ASSERT_TRUE(region);
  ASSERT_EQ(writer_.ask(call("start_renewing", at, 1)), "ok");
  std::vector<std::byte> bytes(kPageSize);
  for (int i = 0; i < kReads; ++i) {
    const auto outcome = memory_->read(region->id, {GuestAddr{at}.page(), 1}, bytes);
    ASSERT_TRUE(outcome) << i << ": " << outcome.error().to_text();
  }
  EXPECT_GT(writer_.number("stop_writers"), 0U);
}

TEST_F(ForeignProcess, AnotherProgramHasNoneOfItsRegions) {
  const std::vector<Region> before = memory_->known_regions();
  ASSERT_EQ(writer_.ask("execute_again"), "ready");
  EXPECT_TRUE(read(before.front(), before.front().range.first.number * kPageSize, 1).empty());
  const auto delta = memory_->refresh();
  ASSERT_TRUE(delta);
  EXPECT_EQ(delta->removed.size(), before.size());
  EXPECT_TRUE(memory_->known_regions().empty());
}

TEST_F(ForeignProcess, AfterItsEndNothingIsLeft) {
  const std::vector<Region> before = memory_->known_regions();
  writer_.end();
  EXPECT_TRUE(read(before.front(), before.front().range.first.number * kPageSize, 1).empty());
  const auto delta = memory_->refresh();
  ASSERT_TRUE(delta) << delta.error().to_text();
  EXPECT_EQ(delta->removed.size(), before.size());
}

TEST(ProcessMemoryOpen, SaysWhyItCannot) {
  Writer writer;
  const pid_t pid = writer.pid();
  writer.signal(SIGKILL);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(ProcessMemory::open(pid).error().code, ErrorCode::kNotFound);
  writer.end();
  EXPECT_EQ(ProcessMemory::open(pid).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(ProcessMemory::open(0).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace migrate::testing
