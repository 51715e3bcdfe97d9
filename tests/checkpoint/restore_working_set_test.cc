// What a guest touched, recorded, and in place ahead of the next one.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "checkpoint/working_set.hpp"
#include "tests/checkpoint/restore_guest.hpp"
#include "tests/support/huge_pages.hpp"
#include "wire/codec.hpp"

namespace migrate::checkpoint::testing {
namespace {

using ::testing::HasSubstr;

/// Some pages of both regions, zeros among them, in an order of their own.
const std::vector<TouchedPage>& touched_pages() {
  static const std::vector<TouchedPage> pages = [] {
    std::vector<TouchedPage> made;
    for (std::uint64_t i = 0; i < 700; ++i) made.push_back({0, (i * 7919) % 20'000});
    for (std::uint64_t page = 9'000; page < 9'300; ++page) made.push_back({0, page});
    for (std::uint64_t page = 40; page > 0; --page) made.push_back({1, page});
    std::vector<TouchedPage> once;
    for (const TouchedPage& page : made) {
      if (std::find(once.begin(), once.end(), page) == once.end()) once.push_back(page);
    }
    return once;
  }();
  return pages;
}

void touch(Guest& guest) {
  for (const TouchedPage& page : touched_pages()) {
    if (!guest.page_is_right(page.region, page.page)) ++guest.wrong;
  }
}

class WorkingSetTest : public LazyRestoreTest {
 protected:
  void SetUp() override { make_image(CompressionChoice::Mode::kAuto); }
  /// By a guest that touches them and ends.
  void record(BedTarget::Script script = {}) {
    RestoreOptions recording = options();
    recording.record = set_;
    recording.record_for = std::chrono::hours(1);
    Restoring* here = nullptr;
    Guest guest([&](Guest& own) {
      touch(own);
      here->restore().guest_ended();
    });
    Restoring restoring(recording, guest.script(std::move(script)));
    here = &restoring;
    restoring.run();
    guest.join();
    ASSERT_EQ(restoring.result().outcome, Outcome::kDone) << restoring.text();
    EXPECT_EQ(guest.wrong, 0u);
    EXPECT_TRUE(restoring.said("recorded"));
    recorded_ = restoring.result().report.pages.recorded;
  }
  /// Without what comes by itself, so that all is prefetched or touched.
  [[nodiscard]] RestoreOptions prefetching() const {
    RestoreOptions with = options();
    with.prefetch = set_;
    with.background = false;
    return with;
  }

  std::string set_ = folder_.path("a.ws");
  std::uint64_t recorded_ = 0;
};

TEST_F(WorkingSetTest, HoldsWhatWasTouchedInItsOrder) {
  record();
  EXPECT_EQ(recorded_, touched_pages().size());
  auto chain = ImageChain::open(image_);
  ASSERT_TRUE(chain);
  auto set = WorkingSet::open(set_, **chain);
  ASSERT_TRUE(set) << set.error().to_text();
  ASSERT_EQ(set->entries().size(), touched_pages().size());
  std::vector<std::byte> content(kPageSize);
  for (std::size_t i = 0; i < touched_pages().size(); ++i) {
    const auto& entry = set->entries()[i];
    EXPECT_EQ(entry.page, touched_pages()[i]);
    const auto expected = page_content(entry.page.region, entry.page.page);
    EXPECT_EQ(entry.zero, expected == std::vector<std::byte>(kPageSize));
    if (entry.zero) continue;
    ASSERT_TRUE(set->read(i, 1, (*chain)->digest(), content.data()));
    EXPECT_EQ(content, expected);
  }
}

TEST_F(WorkingSetTest, IsThereBeforeTheGuestAsks) {
  record();
  Guest guest([](Guest& own) {
    while (!own.stop) ++own.turns;
    touch(own);
  });
  Restoring restoring(prefetching(), guest.script());
  restoring.run();
  ASSERT_EQ(restoring.result().outcome, Outcome::kDone) << restoring.text();
  EXPECT_EQ(restoring.result().report.pages.prefetched, recorded_);
  EXPECT_EQ(restoring.result().report.faults.count, 0u);
  guest.stop = true;
  guest.join();
  EXPECT_EQ(guest.wrong, 0u);
  // All the rest is still right.
  EXPECT_EQ(restoring.wrong_pages(), 0u);
}

TEST_F(WorkingSetTest, BesideAGuestAndTheBackgroundEveryPageIsRight) {
  record();
  Guest guest(touch, 2);
  RestoreOptions with = prefetching();
  with.background = true;
  Restoring restoring(with, guest.script());
  restoring.run();
  guest.join();
  ASSERT_EQ(restoring.result().outcome, Outcome::kDone) << restoring.text();
  EXPECT_EQ(guest.wrong, 0u);
  EXPECT_EQ(restoring.wrong_pages(), 0u);
}

TEST_F(WorkingSetTest, HugetlbTakesTheWholeHugePagesOfIt) {
  const migrate::testing::HugePages huge(14);
  if (!huge.why_not().empty()) GTEST_SKIP() << huge.why_not();
  spec_.regions = regions_of({5'120, 512});
  make_image();
  RestoreOptions recording = options();
  recording.record = set_;
  recording.record_for = std::chrono::milliseconds(0);
  BedTarget::Script script{.kind = RamKind::kHugetlb};
  script.hook = [](BedTarget& target, const std::string& where) {
    if (where != "load") return;
    volatile std::byte seen = target.bytes(0)[700 * kPageSize];
    static_cast<void>(seen);
  };
  {
    Restoring recorder(recording, script);
    recorder.run();
    ASSERT_EQ(recorder.result().outcome, Outcome::kDone) << recorder.text();
    EXPECT_EQ(recorder.result().report.pages.recorded, 512u);
  }
  Restoring restoring(prefetching(), {.kind = RamKind::kHugetlb});
  restoring.run();
  ASSERT_EQ(restoring.result().outcome, Outcome::kDone) << restoring.text();
  EXPECT_EQ(restoring.result().report.pages.prefetched, 512u);
  EXPECT_EQ(restoring.wrong_pages(), 0u);
}

TEST_F(WorkingSetTest, OfAnotherImageIsRefused) {
  record();
  make_image();  // The same memory, another id.
  Restoring restoring(prefetching());
  restoring.run();
  EXPECT_EQ(restoring.result().outcome, Outcome::kRefused) << restoring.text();
  EXPECT_EQ(restoring.result().report.error->code, ErrorCode::kIncompatible);
  EXPECT_THAT(restoring.text(), HasSubstr(set_));
  EXPECT_TRUE(restoring.target().discarded());
}

TEST_F(WorkingSetTest, DamageIsAWarningAndNeverWrongBytes) {
  record();
  const auto length = std::filesystem::file_size(set_);
  // Its head, its table, its content at the beginning and at the end, and an end that is missing.
  for (const std::uint64_t at : {std::uint64_t{30}, std::uint64_t{4'200}, std::uint64_t{60'000},
                                 std::uint64_t{length - 2'000}, std::uint64_t{0}}) {
    std::filesystem::copy_file(set_, folder_.path("damaged"),
                               std::filesystem::copy_options::overwrite_existing);
    if (at > 0) {
      damage(folder_.path("damaged"), at);
    } else {
      std::filesystem::resize_file(folder_.path("damaged"), length - kPageSize);
    }
    RestoreOptions with = prefetching();
    with.prefetch = folder_.path("damaged");
    with.background = true;
    Guest guest(touch);
    Restoring restoring(with, guest.script());
    restoring.run();
    guest.join();
    ASSERT_EQ(restoring.result().outcome, Outcome::kDone) << at << restoring.text();
    EXPECT_TRUE(restoring.said("prefetch-damaged")) << at;
    EXPECT_EQ(guest.wrong, 0u) << at;
    EXPECT_EQ(restoring.wrong_pages(), 0u) << at;
  }
}

/// Whoever can write the file and read the image can make all of its own hashes right.
TEST_F(WorkingSetTest, ThatContradictsTheImageIsNotTaken) {
  record();
  const auto chain = ImageChain::open(image_);
  ASSERT_TRUE(chain) << chain.error().to_text();
  const wire::Hasher hasher = (*chain)->top().header().hasher();
  std::vector<std::byte> file(std::filesystem::file_size(set_));
  const Fd fd(::open(set_.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(::pread(fd.get(), file.data(), file.size(), 0), static_cast<ssize_t>(file.size()));
  const std::uint64_t entries = wire::load_u64(file.data() + 24);
  const auto all = std::span(file);
  const auto table = all.subspan(4096, entries * 24);
  std::byte* const content = file.data() + wire::load_u64(file.data() + 40);
  std::uint64_t entry = 0;
  while (wire::load_u32(table.data() + entry * 24 + 12) != 0) ++entry;
  content[17] ^= std::byte{1};
  wire::store_u64(table.data() + entry * 24 + 16, (*chain)->digest().hash({content, kPageSize}));
  wire::store_u64(file.data() + 48, hasher.hash(table));
  wire::store_u64(file.data() + 56, hasher.hash(all.first(56)));
  ASSERT_EQ(::pwrite(fd.get(), file.data(), file.size(), 0), static_cast<ssize_t>(file.size()));

  RestoreOptions with = prefetching();
  with.background = true;
  Guest guest(touch);
  Restoring restoring(with, guest.script());
  restoring.run();
  guest.join();
  ASSERT_EQ(restoring.result().outcome, Outcome::kDone) << restoring.text();
  EXPECT_TRUE(restoring.said("prefetch-damaged"));
  EXPECT_EQ(guest.wrong, 0u);
  EXPECT_EQ(restoring.wrong_pages(), 0u);
}

TEST_F(WorkingSetTest, ThatIsAFifoIsNotWaitedFor) {
  ASSERT_EQ(::mkfifo(set_.c_str(), 0600), 0);
  Restoring restoring(prefetching());
  restoring.run();
  EXPECT_EQ(restoring.result().outcome, Outcome::kFailed) << restoring.text();
  EXPECT_EQ(restoring.result().report.error->code, ErrorCode::kInvalidArgument);
}

TEST_F(WorkingSetTest, NeverReplacesTheImage) {
  std::filesystem::create_symlink(image_, folder_.path("link"));
  for (const std::string& path : {image_, folder_.path("link")}) {
    RestoreOptions recording = options();
    recording.record = path;
    Restoring restoring(recording);
    restoring.run();
    EXPECT_EQ(restoring.result().outcome, Outcome::kRefused) << restoring.text();
  }
  EXPECT_TRUE(verify_image(image_));
}

TEST_F(WorkingSetTest, ThatIsNotThereEndsTheRestore) {
  Restoring restoring(prefetching());
  restoring.run();
  EXPECT_EQ(restoring.result().outcome, Outcome::kFailed) << restoring.text();
  EXPECT_EQ(restoring.result().report.error->code, ErrorCode::kNotFound);
}

TEST_F(WorkingSetTest, ThatCannotBeWrittenIsAWarning) {
  RestoreOptions recording = options();
  recording.record = folder_.path("none/a.ws");
  recording.record_for = std::chrono::milliseconds(0);
  Restoring restoring(recording);
  restoring.run();
  EXPECT_EQ(restoring.result().outcome, Outcome::kDone) << restoring.text();
  EXPECT_TRUE(restoring.said("record-failed"));
  EXPECT_EQ(restoring.wrong_pages(), 0u);
}

}  // namespace
}  // namespace migrate::checkpoint::testing
