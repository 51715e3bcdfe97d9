// Checkpoints that fail, anywhere: the guest is as it was, and so is what was at the image's path.
#include <gmock/gmock.h>

#include <atomic>
#include <fstream>

#include "memory/uffd_abi.hpp"
#include "tests/checkpoint/checkpoint_bed.hpp"

namespace migrate::checkpoint {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class FailingCheckpoint : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (GetParam() && (probe_userfault().features & abi::kUffdSnapshot) != abi::kUffdSnapshot) {
      GTEST_SKIP() << "userfaultfd has no write protection of all memory here (Linux 6.4)";
    }
  }
  [[nodiscard]] static CheckpointOptions options() { return options_of(GetParam()); }
  static void expect_as_it_was(CheckpointBed& bed, const CheckpointReport& report, Phase phase) {
    ASSERT_TRUE(report.error);
    EXPECT_EQ(report.error->phase, phase) << report.error->to_text();
    EXPECT_EQ(report.id, "");
    EXPECT_THAT(bed.files(), IsEmpty());
    EXPECT_EQ(bed.checkpointer->tracking_since(), "");
    bed.expect_untouched(CheckpointBed::memory_of(*bed.guest));
  }
};

INSTANTIATE_TEST_SUITE_P(Ways, FailingCheckpoint, ::testing::Bool(), [](const auto& live) {
  return std::string(live.param ? "Live" : "Standing");
});

TEST_P(FailingCheckpoint, AGuestThatDoesNotPauseRunsOn) {
  CheckpointBed bed(scripted([](auto& script) { script.fail_pause = ErrorCode::kGuest; }));
  const CheckpointReport report = bed.take("image", options());
  EXPECT_EQ(report.outcome, Outcome::kFailed);
  expect_as_it_was(bed, report, Phase::kQuiesce);
}

TEST_P(FailingCheckpoint, AGuestWhoseStateCannotBeSavedRunsOn) {
  CheckpointBed bed(scripted([](auto& script) { script.fail_save = ErrorCode::kGuest; }));
  const CheckpointReport report = bed.take("image", options());
  EXPECT_EQ(report.outcome, Outcome::kFailed);
  expect_as_it_was(bed, report, Phase::kStateSave);
  EXPECT_EQ(bed.world.resumed, 1);
}

TEST_P(FailingCheckpoint, ATrackerThatFailsIsNotReliedUpon) {
  for (const int collects : {0, 1}) {
    CheckpointBed bed(scripted([&](auto& script) {
      script.fail_collect = ErrorCode::kIo;
      script.collects_before_failure = collects;
    }));
    CheckpointOptions keep = options();
    keep.keep_tracking = true;
    expect_as_it_was(bed, bed.take("image", keep),
                     collects == 0 ? Phase::kSetup : Phase::kFinalSync);
  }
}

TEST_P(FailingCheckpoint, MemoryThatIsLaidOutAnewMeanwhileIsNotSaved) {
  CheckpointBed bed(scripted([&](auto& script) {
    script.writes = [](FakeSource& guest, const char* where) {
      if (std::string(where) == "save") guest.memory().add({{0, 9, 0}, {{0x200000}, 16}});
    };
  }));
  const CheckpointReport report = bed.take("image", options());
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->code, ErrorCode::kBusy);
  EXPECT_THAT(bed.files(), IsEmpty());
  EXPECT_TRUE(bed.guest->running());
}

TEST_P(FailingCheckpoint, APathThatCannotBeWrittenIsFoundOutBeforeTheGuestStands) {
  CheckpointBed bed;
  const CheckpointReport report = bed.take("no/such/folder", options());
  ASSERT_TRUE(report.error);
  EXPECT_EQ(report.error->phase, Phase::kSetup);
  EXPECT_EQ(bed.guest->pauses(), 0);
  EXPECT_EQ(bed.checkpointer->take(options()).outcome, Outcome::kRefused);
}

TEST_P(FailingCheckpoint, CancelledAtAnyEventTheGuestRunsOnAndNothingIsLeft) {
  for (const std::string at : {"checkpoint-armed", "checkpoint-instant", "checkpoint-written"}) {
    CheckpointBed bed;
    bool said = false;
    bed.listener.call = [&](const std::string& name) {
      if (name == at) said = bed.checkpointer->cancel();
    };
    const CheckpointReport report = bed.take("image", options());
    const bool happens = GetParam() || at != "checkpoint-armed";
    const bool in_time = happens && at != "checkpoint-written";
    EXPECT_EQ(said, in_time) << at;
    EXPECT_EQ(report.outcome, in_time ? Outcome::kCancelled : Outcome::kDone) << at;
    EXPECT_EQ(bed.files().size(), in_time ? 0u : 1u) << at;
    bed.expect_untouched(CheckpointBed::memory_of(*bed.guest));
    EXPECT_FALSE(bed.checkpointer->cancel());
  }
}

TEST_P(FailingCheckpoint, CancelledWhileTheGuestStandsItRunsOn) {
  CheckpointBed* made = nullptr;
  bool said = false;
  CheckpointBed bed(scripted([&](auto& script) {
    script.writes = [&](FakeSource&, const char* where) {
      if (std::string(where) == "save") said = made->checkpointer->cancel();
    };
  }));
  made = &bed;
  const CheckpointReport report = bed.take("image", options());
  EXPECT_TRUE(said);
  EXPECT_EQ(report.outcome, Outcome::kCancelled);
  EXPECT_THAT(bed.files(), IsEmpty());
  bed.expect_untouched(CheckpointBed::memory_of(*bed.guest));
}

/// Fails at the `at`-th call that can fail, and from then on.
class FailingOutput final : public ImageOutput {
 public:
  FailingOutput(std::unique_ptr<ImageOutput> real, int at) : real_(std::move(real)), left_(at) {}

  Result<std::unique_ptr<Lane>> make_lane() override {
    MIGRATE_TRY(next());
    MIGRATE_ASSIGN(auto lane, real_->make_lane());
    return std::unique_ptr<Lane>(std::make_unique<FailingLane>(*this, std::move(lane)));
  }
  std::uint64_t reserve(std::uint64_t bytes) override { return real_->reserve(bytes); }
  Status publish() override {
    MIGRATE_TRY(next());
    return real_->publish();
  }
  void interrupt() noexcept override { real_->interrupt(); }

 private:
  class FailingLane final : public Lane {
   public:
    FailingLane(FailingOutput& output, std::unique_ptr<Lane> real)
        : output_(output), real_(std::move(real)) {}
    Result<std::span<std::byte>> buffer(std::size_t bytes) override {
      MIGRATE_TRY(output_.next());
      return real_->buffer(bytes);
    }
    Status write(std::uint64_t offset, std::size_t bytes) override {
      MIGRATE_TRY(output_.next());
      return real_->write(offset, bytes);
    }
    Status flush() override {
      MIGRATE_TRY(output_.next());
      return real_->flush();
    }

   private:
    FailingOutput& output_;
    const std::unique_ptr<Lane> real_;
  };
  Status next() {
    if (--left_ > 0) return {};
    return make_errno_error(ErrorCode::kIo, ENOSPC, "the disk is full, says the test");
  }

  const std::unique_ptr<ImageOutput> real_;
  std::atomic<int> left_;
};

TEST_P(FailingCheckpoint, WhateverCallOfTheOutputFailsTheGuestRunsOnAndTheFormerImageIsThere) {
  CheckpointBed bed(scripted([&](auto& script) {
    script.writes = [](FakeSource& guest, const char* where) {
      if (std::string(where) != "resume") return;
      for (std::uint64_t page = 0; page < 1500; page += 9)
        guest.write(CheckpointBed::kRam, {page}, 8);
    };
  }));
  const std::string path = bed.path("image");
  std::ofstream(path) << "what was there";
  // The log of one checkpoint serves the next, failed ones between them.
  auto guest = bed.checkpointer->take_guest();
  WriteLog log(guest->tracker());
  bool done = false;
  for (int at = 1; !done; ++at) {
    ASSERT_LT(at, 1000);
    TakeStop stop;
    CheckpointOptions options = FailingCheckpoint::options();
    options.path = path;
    options.keep_tracking = at % 2 == 0;
    Take take({*guest, log, stop, nullptr, system_clock(),
               [&]() -> Result<std::unique_ptr<ImageOutput>> {
                 MIGRATE_ASSIGN(auto file, make_file_output(path, {.direct = false}));
                 return std::unique_ptr<ImageOutput>(
                     std::make_unique<FailingOutput>(std::move(file), at));
               }},
              options);
    const CheckpointReport report = take.run();
    done = !report.error;
    EXPECT_EQ(report.outcome, done ? Outcome::kDone : Outcome::kFailed);
    EXPECT_TRUE(bed.guest->running());
    EXPECT_THAT(bed.files(), ElementsAre("image"));
    for (std::uint64_t page = 0; page < 1500; ++page) {
      bed.guest->write(CheckpointBed::kRam, {page}, static_cast<std::uint8_t>(at + page % 3));
    }
    if (done) break;
    EXPECT_EQ(report.error->sys_errno, ENOSPC) << at << ": " << report.error->to_text();
    EXPECT_FALSE(log.tracking());
    std::ifstream kept(path);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(kept), {}), "what was there");
  }
  bed.expect_image("image");
}

TEST_P(FailingCheckpoint, WhatWasCollectedForAnImageThatFailedIsInTheNext) {
  CheckpointBed bed;
  auto guest = bed.checkpointer->take_guest();
  WriteLog log(guest->tracker());
  const auto take = [&](const std::string& name, const std::string& base, bool fails) {
    TakeStop stop;
    CheckpointOptions options = FailingCheckpoint::options();
    options.path = bed.path(name);
    options.base = base.empty() ? "" : bed.path(base);
    options.keep_tracking = true;
    Take one({*guest, log, stop, nullptr, system_clock(),
              [&]() -> Result<std::unique_ptr<ImageOutput>> {
                MIGRATE_ASSIGN(auto file, make_file_output(options.path));
                return std::unique_ptr<ImageOutput>(
                    std::make_unique<FailingOutput>(std::move(file), fails ? 12 : 1'000'000));
              }},
             options);
    return one.run();
  };
  const auto write = [&](std::uint64_t page) {
    bed.guest->write(CheckpointBed::kRam, {page}, 111);
  };
  ASSERT_FALSE(take("first", "", false).error);
  write(3);
  write(1400);
  ASSERT_TRUE(take("second", "first", true).error);
  write(4);
  const CheckpointReport report = take("second", "first", false);
  ASSERT_FALSE(report.error) << report.error->to_text();
  EXPECT_EQ(report.changed_by, "tracker");
  EXPECT_EQ(report.pages.stored + report.pages.duplicate, 3u);
  EXPECT_GT(report.pages.parent, 500u);
  bed.expect_image("second");
  log.stop();
}

}  // namespace
}  // namespace migrate::checkpoint
