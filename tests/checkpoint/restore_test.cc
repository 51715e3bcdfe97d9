// Restore: a guest from an image with all of its memory before it starts.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/ioctl.h>

#include <array>

#include "checkpoint/mapped_fill.hpp"
#include "tests/checkpoint/restore_bed.hpp"
#include "tests/support/huge_pages.hpp"

namespace migrate::checkpoint::testing {
namespace {

using ::testing::IsEmpty;
using ::testing::Values;

constexpr std::uint64_t kHugePages = GuestRam::kHugeBytes / kPageSize;

RestoreOptions restore_of(const std::string& path, RestoreMode mode = RestoreMode::kEager) {
  RestoreOptions options;
  options.path = path;
  options.mode = mode;
  return options;
}

class RestoreTest : public ::testing::Test {
 protected:
  void SetUp() override { write_image(image_, spec_); }
  Folder folder_;
  std::string image_ = folder_.path("a.img");
  ImageSpec spec_{.regions = regions_of({5000, 130, 1})};
};

struct Way {
  RestoreMode mode;
  RamKind kind;
  CompressionChoice::Mode compress;
  unsigned lanes;
  bool mapped = true;
};

class RestoreEveryWay : public ::testing::TestWithParam<Way> {};

TEST_P(RestoreEveryWay, MemoryIsAsInTheImage) {
  const Way way = GetParam();
  std::unique_ptr<migrate::testing::HugePages> huge;
  if (test::is_hugetlb(way.kind)) {
    huge = std::make_unique<migrate::testing::HugePages>(12);
    if (!huge->why_not().empty()) GTEST_SKIP() << huge->why_not();
  }
  Folder folder;
  ImageSpec spec{.regions = regions_of({9 * kHugePages, kHugePages}),
                 .compress = {way.compress, 1}};
  const std::string image = folder.path("a.img");
  write_image(image, spec);
  RestoreOptions options = restore_of(image, way.mode);
  options.lanes = way.lanes;
  Restoring restoring(options, {.kind = way.kind, .mapped = way.mapped});
  restoring.run();
  ASSERT_EQ(restoring.result().outcome, Outcome::kDone) << restoring.text();
  EXPECT_TRUE(restoring.target().running());
  EXPECT_EQ(restoring.opened(), 1);
  EXPECT_EQ(restoring.told_started(), 1);
  EXPECT_EQ(restoring.wrong_pages(), 0u);
  EXPECT_EQ(restoring.result().waiting_memory, nullptr);
  const RestoreReport& report = restoring.result().report;
  EXPECT_EQ(report.pages.total, 10 * kHugePages);
  EXPECT_EQ(report.pages.zero + report.pages.stored + report.pages.duplicate, report.pages.total);
  EXPECT_GT(report.started_ms, 0);
  EXPECT_GE(report.total_ms, report.started_ms);
  EXPECT_EQ(report.digest, way.mode == RestoreMode::kMapped ? "off" : "equal");
  if (way.mode == RestoreMode::kMapped && way.compress == CompressionChoice::Mode::kNone) {
    EXPECT_GT(report.pages.mapped, 0u);
  }
}

using Mode = CompressionChoice::Mode;
INSTANTIATE_TEST_SUITE_P(Anonymous, RestoreEveryWay,
                         Values(Way{RestoreMode::kEager, RamKind::kAnonymous, Mode::kAuto, 0},
                                Way{RestoreMode::kEager, RamKind::kAnonymous, Mode::kNone, 1},
                                Way{RestoreMode::kEager, RamKind::kTransparentHuge, Mode::kZstd, 3},
                                Way{RestoreMode::kEager, RamKind::kMemfd, Mode::kNone, 16},
                                Way{RestoreMode::kEager, RamKind::kMemfd, Mode::kAuto, 2, false},
                                Way{RestoreMode::kLazy, RamKind::kAnonymous, Mode::kAuto, 0},
                                Way{RestoreMode::kLazy, RamKind::kAnonymous, Mode::kNone, 2},
                                Way{RestoreMode::kLazy, RamKind::kTransparentHuge, Mode::kZstd, 2},
                                Way{RestoreMode::kLazy, RamKind::kMemfd, Mode::kNone, 3},
                                Way{RestoreMode::kMapped, RamKind::kAnonymous, Mode::kNone, 0},
                                Way{RestoreMode::kMapped, RamKind::kTransparentHuge, Mode::kAuto,
                                    2}));
INSTANTIATE_TEST_SUITE_P(Hugetlb, RestoreEveryWay,
                         Values(Way{RestoreMode::kEager, RamKind::kHugetlb, Mode::kAuto, 2},
                                Way{RestoreMode::kEager, RamKind::kHugetlbMemfd, Mode::kNone, 2},
                                Way{RestoreMode::kLazy, RamKind::kHugetlb, Mode::kAuto, 2},
                                Way{RestoreMode::kLazy, RamKind::kHugetlbMemfd, Mode::kNone, 2}));

class RestoreOfChain : public RestoreTest, public ::testing::WithParamInterface<RestoreMode> {};

TEST_P(RestoreOfChain, PagesComeFromWhereTheyAreInTheChain) {
  ImageSpec child = spec_;
  child.base = image_;
  child.version = 1;
  const std::string path = folder_.path("b.img");
  write_image(path, child);
  Restoring restoring(restore_of(path, GetParam()));
  restoring.run();
  ASSERT_EQ(restoring.result().outcome, Outcome::kDone) << restoring.text();
  EXPECT_EQ(restoring.wrong_pages(1), 0u);
}
INSTANTIATE_TEST_SUITE_P(All, RestoreOfChain,
                         Values(RestoreMode::kEager, RestoreMode::kLazy, RestoreMode::kMapped));

TEST_F(RestoreTest, AGuestThatStoodStands) {
  spec_.run_state = RunState::kPaused;
  write_image(image_, spec_);
  Restoring restoring(restore_of(image_));
  ASSERT_EQ(restoring.run().outcome, Outcome::kDone) << restoring.text();
  EXPECT_TRUE(restoring.target().started());
  EXPECT_FALSE(restoring.target().running());
}

TEST_F(RestoreTest, AGuestThatRanStandsWhereItIsAskedFor) {
  RestoreOptions options = restore_of(image_);
  options.paused = true;
  Restoring restoring(options);
  ASSERT_EQ(restoring.run().outcome, Outcome::kDone) << restoring.text();
  EXPECT_TRUE(restoring.target().started());
  EXPECT_FALSE(restoring.target().running());
}

class RestoreFailure : public RestoreTest, public ::testing::WithParamInterface<RestoreMode> {
 protected:
  void expect_nothing_left(Restoring& restoring, Outcome outcome, ErrorCode code) {
    EXPECT_EQ(restoring.result().outcome, outcome) << restoring.text();
    ASSERT_TRUE(restoring.result().report.error);
    EXPECT_EQ(restoring.result().report.error->code, code) << restoring.text();
    EXPECT_TRUE(restoring.target().discarded());
    EXPECT_FALSE(restoring.target().locked());
    EXPECT_EQ(restoring.told_started(), 0);
    EXPECT_EQ(restoring.result().waiting_memory, nullptr);
  }
};

TEST_P(RestoreFailure, OfAnyStepBeforeTheStartLeavesNothing) {
  using Script = BedTarget::Script;
  const std::vector<std::pair<Script, Outcome>> scripts = {
      {Script{.fail_prepare = ErrorCode::kIncompatible}, Outcome::kRefused},
      {Script{.fail_prepare = ErrorCode::kNoMemory}, Outcome::kFailed},
      {Script{.fail_load = ErrorCode::kGuest}, Outcome::kFailed},
      {Script{.fail_acquire = ErrorCode::kBusy}, Outcome::kFailed},
      {Script{.fail_start = ErrorCode::kGuest}, Outcome::kFailed}};
  for (const auto& [script, outcome] : scripts) {
    Restoring restoring(restore_of(image_, GetParam()), script);
    restoring.run();
    ASSERT_TRUE(restoring.result().report.error);
    expect_nothing_left(restoring, outcome, restoring.result().report.error->code);
    EXPECT_THAT(restoring.text(), ::testing::HasSubstr("scripted failure"));
  }
  Restoring closed(restore_of(image_, GetParam()));
  closed.fail_open = ErrorCode::kNameTaken;
  closed.run();
  expect_nothing_left(closed, Outcome::kFailed, ErrorCode::kNameTaken);
}

TEST_P(RestoreFailure, ThatIsAnUnsureStartKeepsTheGuest) {
  // BedTarget says nothing ran; kGuestLost says that something may have.
  BedTarget::Script script;
  script.fail_start = ErrorCode::kGuestLost;
  Restoring restoring(restore_of(image_, GetParam()), script);
  RestoreResult result = restoring.restore().run();
  EXPECT_EQ(result.outcome, Outcome::kLost);
  EXPECT_FALSE(restoring.target().discarded());
  result.waiting_memory.reset();
}

TEST_P(RestoreFailure, CancelAtEachStepLeavesNothing) {
  for (const std::string at : {"prepare", "load", "acquire"}) {
    Restoring* here = nullptr;
    BedTarget::Script script;
    script.hook = [&](BedTarget&, const std::string& where) {
      if (where == at) {
        EXPECT_TRUE(here->restore().cancel());
      }
    };
    Restoring restoring(restore_of(image_, GetParam()), script);
    here = &restoring;
    restoring.run();
    expect_nothing_left(restoring, Outcome::kCancelled, ErrorCode::kCancelled);
  }
}

TEST_P(RestoreFailure, CancelAfterTheStartIsTooLate) {
  Restoring* here = nullptr;
  BedTarget::Script script;
  script.hook = [&](BedTarget&, const std::string& where) {
    if (where == "start") {
      EXPECT_FALSE(here->restore().cancel());
    }
  };
  Restoring restoring(restore_of(image_, GetParam()), script);
  here = &restoring;
  EXPECT_EQ(restoring.run().outcome, Outcome::kDone) << restoring.text();
  EXPECT_EQ(restoring.wrong_pages(), 0u);
}

TEST_P(RestoreFailure, CancelBeforeRunMakesNothing) {
  Restoring restoring(restore_of(image_, GetParam()));
  EXPECT_TRUE(restoring.restore().cancel());
  restoring.run();
  expect_nothing_left(restoring, Outcome::kCancelled, ErrorCode::kCancelled);
  EXPECT_THAT(restoring.target().regions(), IsEmpty());
}

TEST_P(RestoreFailure, NoImageIsNoGuest) {
  Restoring restoring(restore_of(folder_.path("none.img"), GetParam()));
  restoring.run();
  EXPECT_EQ(restoring.result().outcome, Outcome::kFailed) << restoring.text();
  EXPECT_TRUE(restoring.target().discarded());
}
INSTANTIATE_TEST_SUITE_P(All, RestoreFailure,
                         Values(RestoreMode::kEager, RestoreMode::kLazy, RestoreMode::kMapped));

/// Overwrites what page `page` of the first region holds in the file.
void damage_page(const std::string& path, std::uint64_t page) {
  auto chain = ImageChain::open(path);
  ASSERT_TRUE(chain) << chain.error().to_text();
  FoundPage found;
  ASSERT_TRUE((*chain)->find(0, page, {&found, 1}));
  ASSERT_NE(found.file, nullptr);
  const Fd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  const std::uint64_t at = found.location.offset() + 100;
  std::array<std::byte, 16> bytes{};
  ASSERT_EQ(::pread(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(at)), 16);
  for (std::byte& byte : bytes) byte ^= std::byte{0x55};
  ASSERT_EQ(::pwrite(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(at)), 16);
}

TEST_F(RestoreTest, DamageIsFoundBeforeTheStart) {
  spec_.compress.mode = CompressionChoice::Mode::kNone;
  write_image(image_, spec_);
  damage_page(image_, 700);
  Restoring restoring(restore_of(image_));
  restoring.run();
  EXPECT_EQ(restoring.result().outcome, Outcome::kFailed) << restoring.text();
  EXPECT_EQ(restoring.result().report.error->code, ErrorCode::kIntegrity);
  EXPECT_THAT(restoring.text(), ::testing::HasSubstr(image_));
  EXPECT_TRUE(restoring.target().discarded());
}

TEST_F(RestoreTest, CancelEndsTheReadingOfMemory) {
  spec_.regions = regions_of({30'000});
  write_image(image_, spec_);
  Restoring* here = nullptr;
  bool loaded = false;
  BedTarget::Script script{.mapped = false};
  script.hook = [&](BedTarget&, const std::string& where) {
    if (where == "written") here->restore().cancel();
    if (where == "load") loaded = true;
  };
  Restoring restoring(restore_of(image_), script);
  here = &restoring;
  restoring.run();
  EXPECT_EQ(restoring.result().outcome, Outcome::kCancelled) << restoring.text();
  EXPECT_TRUE(restoring.target().discarded());
  EXPECT_FALSE(loaded);
}

TEST_F(RestoreTest, ReadsAStreamFromAPipe) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  Fd read_end(ends[0]);
  Fd write_end(ends[1]);
  std::thread feeder([&] {
    const Fd file(::open(image_.c_str(), O_RDONLY | O_CLOEXEC));
    std::vector<std::byte> room(100'000);
    for (ssize_t got = 0; (got = ::read(file.get(), room.data(), room.size())) > 0;) {
      for (ssize_t sent = 0; sent < got;) {
        const ssize_t step =
            ::write(write_end.get(), room.data() + sent, static_cast<std::size_t>(got - sent));
        if (step <= 0) return;
        sent += step;
      }
    }
    write_end.reset();
  });
  RestoreOptions options;
  options.stream = read_end.get();
  Restoring restoring(options);
  restoring.run();
  feeder.join();
  ASSERT_EQ(restoring.result().outcome, Outcome::kDone) << restoring.text();
  EXPECT_EQ(restoring.wrong_pages(), 0u);
  EXPECT_EQ(restoring.result().report.digest, "equal");
}

TEST_F(RestoreTest, CancelEndsTheWaitForAStream) {
  // Nothing; a part of the header; header and description; and then nothing more.
  for (const ssize_t bytes : {0, 100, 8192}) {
    const bool begun = bytes == 8192;
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const Fd read_end(ends[0]);
    const Fd write_end(ends[1]);
    const Fd file(::open(image_.c_str(), O_RDONLY | O_CLOEXEC));
    std::array<std::byte, 8192> room{};
    ASSERT_EQ(::read(file.get(), room.data(), room.size()), 8192);
    ASSERT_EQ(::write(write_end.get(), room.data(), static_cast<std::size_t>(bytes)), bytes);
    RestoreOptions options;
    options.stream = read_end.get();
    std::atomic<bool> prepared{false};
    BedTarget::Script script;
    script.hook = [&](BedTarget&, const std::string&) { prepared = true; };
    Restoring restoring(options, script);
    std::thread canceller([&] {
      wait_for([&] {
        int waiting = 0;
        EXPECT_EQ(::ioctl(read_end.get(), FIONREAD, &waiting), 0);
        return waiting == 0 && (!begun || prepared.load());
      });
      EXPECT_TRUE(restoring.restore().cancel());
    });
    restoring.run();
    canceller.join();
    EXPECT_EQ(restoring.result().outcome, Outcome::kCancelled) << restoring.text();
    EXPECT_TRUE(restoring.target().discarded());
  }
}

TEST_F(RestoreTest, RefusesWhatDoesNotGoTogether) {
  RestoreOptions lazy_stream;
  lazy_stream.stream = 0;
  lazy_stream.mode = RestoreMode::kLazy;
  RestoreOptions eager_record = restore_of(image_);
  eager_record.record = folder_.path("ws");
  RestoreOptions both = restore_of(image_, RestoreMode::kLazy);
  both.record = both.prefetch = folder_.path("ws");
  for (const RestoreOptions& options : {lazy_stream, eager_record, both}) {
    Restoring restoring(options);
    restoring.run();
    EXPECT_EQ(restoring.result().outcome, Outcome::kRefused) << restoring.text();
    EXPECT_FALSE(restoring.result().report.error->remedy.empty());
  }
}

TEST_F(RestoreTest, SharedMemoryIsNotMappedOver) {
  Restoring restoring(restore_of(image_, RestoreMode::kMapped), {.kind = RamKind::kMemfd});
  restoring.run();
  EXPECT_EQ(restoring.result().outcome, Outcome::kRefused) << restoring.text();
  EXPECT_EQ(restoring.result().report.error->code, ErrorCode::kUnsupported);
  EXPECT_FALSE(restoring.result().report.error->remedy.empty());
}

TEST_F(RestoreTest, HugetlbIsNotMappedOver) {
  const migrate::testing::HugePages huge(4);
  if (!huge.why_not().empty()) GTEST_SKIP() << huge.why_not();
  spec_.regions = regions_of({2 * kHugePages});
  write_image(image_, spec_);
  Restoring restoring(restore_of(image_, RestoreMode::kMapped), {.kind = RamKind::kHugetlb});
  restoring.run();
  EXPECT_EQ(restoring.result().outcome, Outcome::kRefused) << restoring.text();
  EXPECT_EQ(restoring.result().report.error->code, ErrorCode::kUnsupported);
}

TEST_F(RestoreTest, OfMoreRunsThanMayBeMappedTheLongestAre) {
  const auto chain = ImageChain::open(image_);
  ASSERT_TRUE(chain);
  const ImageFile* const file = &(*chain)->top();
  RunFinder finder;
  // Runs of 3, 10, 1 and 7 pages, of which the last goes on in another part and ends in a region.
  std::vector<FoundPage> found;
  std::uint64_t at = kBlockAlign;
  const auto add_run = [&](std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i, at += kPageSize) {
      found.push_back({file, PageLocation::raw(at), 1});
    }
  };
  for (const std::uint64_t count : {3, 10, 1}) {
    add_run(count);
    found.push_back({});
  }
  add_run(4);
  finder.add(0, 100, found);
  const std::uint64_t parted = 100 + found.size();
  found.clear();
  add_run(3);
  finder.add(0, parted, found);
  found.clear();
  add_run(2);
  finder.add(1, 0, found);
  const auto runs = finder.take(2, 2);
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].first, 104u);
  EXPECT_EQ(runs[0].count, 10u);
  EXPECT_EQ(runs[0].at, kBlockAlign + 3 * kPageSize);
  EXPECT_EQ(runs[1].first, parted - 4);
  EXPECT_EQ(runs[1].count, 7u);
}

TEST_F(RestoreTest, GuestsMappedFromOneImageDoNotSeeEachOthersWrites) {
  spec_.compress.mode = CompressionChoice::Mode::kNone;
  write_image(image_, spec_);
  std::vector<std::unique_ptr<Restoring>> guests;
  for (std::size_t i = 0; i < 20; ++i) {
    guests.push_back(std::make_unique<Restoring>(restore_of(image_, RestoreMode::kMapped)));
    ASSERT_EQ(guests[i]->run().outcome, Outcome::kDone) << guests[i]->text();
    EXPECT_GT(guests[i]->result().report.pages.mapped, 1000u);
    const auto memory = guests[i]->target().bytes(0);
    for (std::size_t at = i * kPageSize; at < memory.size(); at += 64 * kPageSize) {
      std::memset(memory.data() + at, static_cast<int>(0xA0 + i), kPageSize);
    }
  }
  for (std::size_t i = 0; i < guests.size(); ++i) {
    const auto memory = guests[i]->target().bytes(0);
    for (std::uint64_t page = 0; page < memory.size() / kPageSize; ++page) {
      auto content = page_content(0, page);
      if (page % 64 == i) std::fill(content.begin(), content.end(), std::byte(0xA0 + i));
      ASSERT_EQ(std::memcmp(memory.data() + page * kPageSize, content.data(), kPageSize), 0)
          << "guest " << i << " page " << page;
    }
  }
  Restoring after(restore_of(image_));  // Which checks all there is in the file.
  EXPECT_EQ(after.run().outcome, Outcome::kDone) << after.text();
  EXPECT_EQ(after.wrong_pages(), 0u);
}

}  // namespace
}  // namespace migrate::checkpoint::testing
