// Checkpoints of guests that stand and that run on, whole and incremental, read back and compared.
#include "migrate/checkpoint.hpp"

#include <gmock/gmock.h>
#include <unistd.h>

#include <thread>

#include "memory/uffd_abi.hpp"
#include "tests/checkpoint/checkpoint_bed.hpp"

namespace migrate::checkpoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Way {
  bool live = false;
  TrackerStyle style = TrackerStyle::kManual;
  friend void PrintTo(const Way& way, std::ostream* to) {
    *to << (way.live ? "live" : "standing")
        << (way.style == TrackerStyle::kManual ? ", manual" : ", re-armed by collect");
  }
};

class CheckpointerBy : public ::testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    if (GetParam().live &&
        (probe_userfault().features & abi::kUffdSnapshot) != abi::kUffdSnapshot) {
      GTEST_SKIP() << "userfaultfd has no write protection of all memory here (Linux 6.4)";
    }
  }
  [[nodiscard]] static FakeSource::Script script() {
    return scripted([](auto& script) { script.style = GetParam().style; });
  }
  [[nodiscard]] static CheckpointOptions options(std::string base = {}, bool keep = false) {
    return options_of(GetParam().live, std::move(base), keep);
  }
};

/// Writes by the device while its state is saved, and by the guest as soon as it runs on.
void write_around(FakeSource& guest, const char* where) {
  if (std::string(where) == "save") {
    guest.write_as_device(CheckpointBed::kRam, {5}, 200);
    guest.write_as_device(CheckpointBed::kSmall, {0x100001}, 201);
  }
  if (std::string(where) == "resume") {
    for (std::uint64_t page = 0; page < 1500; page += 2) {
      guest.write(CheckpointBed::kRam, {page}, static_cast<std::uint8_t>(page % 100 + 150));
    }
    guest.write_zeros(CheckpointBed::kRam, {11});
    guest.write(CheckpointBed::kSmall, {0x100001}, 3);
  }
}

TEST_P(CheckpointerBy, TheImageIsTheGuestAtTheInstantWhateverItWritesAfterwards) {
  auto writing = script();
  writing.writes = write_around;
  CheckpointBed bed(writing);
  const CheckpointReport report = bed.take("image", options());
  ASSERT_FALSE(report.error) << report.error->to_text();
  EXPECT_EQ(report.outcome, Outcome::kDone);
  bed.expect_image("image");
  EXPECT_THAT(bed.files(), ElementsAre("image"));
  EXPECT_TRUE(bed.guest->running());
  EXPECT_EQ(bed.world.resumed, 1);
  EXPECT_EQ(report.live, GetParam().live);
  ASSERT_TRUE(report.pause_ms);
  EXPECT_LE(*report.pause_ms, report.total_ms);
  EXPECT_EQ(report.path, bed.path("image"));
  EXPECT_EQ(report.changed_by, "");
  EXPECT_EQ(report.pages.total, 1570u);
  EXPECT_EQ(report.pages.total, report.pages.stored + report.pages.zero + report.pages.duplicate);
  EXPECT_EQ(report.bytes.file, std::filesystem::file_size(bed.path("image")));
  EXPECT_EQ(report.pages.copied > 0, GetParam().live);
  EXPECT_EQ(report.faults.count > 0, GetParam().live);
  EXPECT_EQ(bed.checkpointer->tracking_since(), "");
  const auto info = inspect_image(bed.path("image"));
  ASSERT_TRUE(info);
  EXPECT_EQ(info->run_state, RunState::kRunning);
  EXPECT_EQ(info->chain.front().id, report.id);
  EXPECT_EQ(info->guest.name, "fake");
  bed.expect_untouched(CheckpointBed::memory_of(*bed.guest));
}

TEST_P(CheckpointerBy, ChainsByTheTrackerHoldWhatWasWrittenBetweenTheInstants) {
  auto writing = script();
  writing.writes = write_around;
  CheckpointBed bed(writing);
  std::string base;
  for (int image = 0; image < 4; ++image) {
    const std::string name = "image" + std::to_string(image);
    const CheckpointReport report = bed.take(name, options(base, true));
    ASSERT_FALSE(report.error) << report.error->to_text();
    EXPECT_EQ(report.changed_by, image == 0 ? "" : "tracker");
    EXPECT_EQ(bed.checkpointer->tracking_since(), report.id);
    if (image > 0) {
      EXPECT_GT(report.pages.parent, 300u);
    }
    bed.expect_image(name);
    base = bed.path(name);
    bed.guest->write(CheckpointBed::kRam, {static_cast<std::uint64_t>(image * 3 + 1)}, 99);
    bed.guest->write_zeros(CheckpointBed::kRam, {static_cast<std::uint64_t>(image * 3 + 2)});
  }
  // The last one, and nobody tracks any more.
  const CheckpointReport last = bed.take("last", options(base));
  ASSERT_FALSE(last.error) << last.error->to_text();
  EXPECT_EQ(last.changed_by, "tracker");
  EXPECT_EQ(bed.checkpointer->tracking_since(), "");
  bed.expect_image("last");
}

TEST_P(CheckpointerBy, WithoutATrackerHashesTellWhatHasChanged) {
  CheckpointBed bed(script());
  ASSERT_FALSE(bed.take("first", options()).error);
  for (std::uint64_t page = 0; page < 40; ++page) bed.guest->write(CheckpointBed::kRam, {page}, 99);
  bed.guest->write_zeros(CheckpointBed::kRam, {1001});
  const CheckpointReport report = bed.take("second", options(bed.path("first")));
  ASSERT_FALSE(report.error) << report.error->to_text();
  EXPECT_EQ(report.changed_by, "hashes");
  bed.expect_image("second");
  EXPECT_EQ(report.pages.stored + report.pages.duplicate, 40u);
  EXPECT_LT(report.bytes.file, std::filesystem::file_size(bed.path("first")));
  // An image that is not the one since which writes are tracked is compared, too.
  ASSERT_FALSE(bed.take("third", options({}, true)).error);
  bed.guest->write(CheckpointBed::kRam, {2}, 31);
  const CheckpointReport other = bed.take("fourth", options(bed.path("second")));
  ASSERT_FALSE(other.error) << other.error->to_text();
  EXPECT_EQ(other.changed_by, "hashes");
  bed.expect_image("fourth");
}

TEST_P(CheckpointerBy, APausedGuestStaysPaused) {
  auto standing = script();
  standing.run_state = RunState::kPaused;
  CheckpointBed bed(standing);
  const CheckpointReport report = bed.take("image", options());
  ASSERT_FALSE(report.error) << report.error->to_text();
  EXPECT_FALSE(bed.guest->running());
  EXPECT_EQ(bed.world.resumed, 0);
  EXPECT_FALSE(report.pause_ms);
  const auto info = inspect_image(bed.path("image"));
  ASSERT_TRUE(info);
  EXPECT_EQ(info->run_state, RunState::kPaused);
  bed.expect_image("image");
}

TEST_P(CheckpointerBy, AGuestThatIsNotToRunOnStands) {
  CheckpointBed bed(script());
  CheckpointOptions stop = options();
  stop.leave_paused = true;
  const CheckpointReport report = bed.take("image", stop);
  ASSERT_FALSE(report.error) << report.error->to_text();
  EXPECT_FALSE(bed.guest->running());
  EXPECT_FALSE(report.pause_ms);
  const auto info = inspect_image(bed.path("image"));
  ASSERT_TRUE(info);
  EXPECT_EQ(info->run_state, RunState::kRunning);
  bed.expect_image("image");
}

TEST_P(CheckpointerBy, AnImageGoesThroughAPipe) {
  auto writing = script();
  writing.writes = write_around;
  CheckpointBed bed(writing);
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const Fd from(ends[0]);
  Fd to(ends[1]);
  Memory memory = CheckpointBed::memory_of(*bed.guest);
  for (auto& [id, bytes] : memory) std::fill(bytes.begin(), bytes.end(), std::byte{0});
  std::string failed = "nothing read";
  std::thread reader([&] {
    auto stream = ImageStreamReader::create(from.get());
    if (!stream) return void(failed = stream.error().to_text());
    const auto& regions = (*stream)->description().guest.regions;
    const auto at = [&](std::uint16_t region, std::uint64_t page) {
      return memory[regions[region].id].data() + page * kPageSize;
    };
    const auto end =
        (*stream)->read_all({[&](auto region, auto page, const std::byte* content) -> Status {
                               std::memcpy(at(region, page), content, kPageSize);
                               return {};
                             },
                             [&](auto region, auto page, std::byte* into) -> Status {
                               std::memcpy(into, at(region, page), kPageSize);
                               return {};
                             },
                             [&](auto region, auto page) -> Status {
                               std::memset(at(region, page), 0, kPageSize);
                               return {};
                             }});
    failed = end ? "" : end.error().to_text();
  });
  CheckpointOptions streamed = options();
  streamed.stream = to.get();
  const CheckpointReport report = bed.checkpointer->take(streamed);
  to.reset();
  reader.join();
  ASSERT_FALSE(report.error) << report.error->to_text();
  EXPECT_EQ(failed, "");
  EXPECT_EQ(memory, bed.at_the_instant);
  EXPECT_EQ(report.path, "");
}

INSTANTIATE_TEST_SUITE_P(
    Ways, CheckpointerBy,
    ::testing::Values(Way{false, TrackerStyle::kManual}, Way{false, TrackerStyle::kRearmInCollect},
                      Way{true, TrackerStyle::kManual}, Way{true, TrackerStyle::kRearmInCollect}),
    [](const auto& way) {
      return std::string(way.param.live ? "Live" : "Standing") +
             (way.param.style == TrackerStyle::kManual ? "Manual" : "Rearming");
    });

TEST(Checkpointer, MemoryThatIsNotMappedIsReadAndRefusedLive) {
  CheckpointBed bed(scripted([](auto& script) { script.mapped = false; }));
  const CheckpointReport refused = bed.take("live", options_of(true));
  ASSERT_TRUE(refused.error);
  EXPECT_EQ(refused.outcome, Outcome::kRefused);
  EXPECT_EQ(refused.error->code, ErrorCode::kUnsupported);
  EXPECT_THAT(refused.error->remedy, HasSubstr("without --live"));
  EXPECT_EQ(bed.guest->pauses(), 0);
  ASSERT_FALSE(bed.take("image").error);
  bed.expect_image("image");
  EXPECT_THAT(bed.files(), ElementsAre("image"));
}

TEST(Checkpointer, AnotherLayoutThanTheBasesIsIncompatibleWithAWayOut) {
  CheckpointBed bed;
  ASSERT_FALSE(bed.take("first").error);
  bed.guest->memory().add({{0, 9, 0}, {{0x200000}, 16}});
  const CheckpointReport report = bed.take("second", options_of(false, bed.path("first")));
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->code, ErrorCode::kIncompatible);
  EXPECT_EQ(report.outcome, Outcome::kRefused);
  EXPECT_THAT(report.error->remedy, HasSubstr("full"));
  ASSERT_FALSE(bed.take("full").error);
  bed.expect_image("full");
}

TEST(Checkpointer, AnImageDoesNotReplaceWhatItIsBasedOn) {
  CheckpointBed bed;
  ASSERT_FALSE(bed.take("first").error);
  const CheckpointReport report = bed.take("first", options_of(false, bed.path("first")));
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->code, ErrorCode::kInvalidArgument);
  bed.expect_image("first");
}

TEST(Checkpointer, TheGuestComesBackWithoutATracker) {
  CheckpointBed bed;
  ASSERT_FALSE(bed.take("first", options_of(false, {}, true)).error);
  EXPECT_FALSE(bed.checkpointer->cancel());
  const auto guest = bed.checkpointer->take_guest();
  EXPECT_EQ(guest.get(), bed.guest);
  EXPECT_TRUE(bed.guest->running());
  EXPECT_EQ(bed.checkpointer->tracking_since(), "");
  bed.checkpointer.reset();
  // One that follows the guest no more lets it be written while it stands, as before tracking.
  EXPECT_TRUE(guest->pause());
}

}  // namespace
}  // namespace migrate::checkpoint
