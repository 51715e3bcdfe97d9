// Post-copy with a source that does not keep to the protocol: an error, no assertion, and nobody
// waits for ever.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <new>

#include "tests/session/engine/alone_target.hpp"

namespace migrate::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kPages = 100;  // Of the region; page 3 is the one that follows.
constexpr std::uint64_t kBit3 = 1u << 3;
constexpr std::byte kContent{0x21};

FakeTarget::Script without_state() {
  FakeTarget::Script script;
  script.state_bytes = 0;
  return script;
}

IncomingOptions briefly_asked() {
  IncomingOptions options;
  options.ask_window = milliseconds(100);
  return options;
}

// The real target, whose source is scripted.
class LazyTargetAlone : public AloneTarget {
 protected:
  LazyTargetAlone() : AloneTarget(without_state(), briefly_asked()) {}

  Status list(std::uint64_t word, std::uint64_t pages, std::uint64_t digest = 0) {
    if (word != 0) MIGRATE_TRY(source_.say(wire::Void{wire::RegionHandle{0}, 0, {word}}));
    return source_.say(wire::VoidEnd{pages, digest});
  }
  /// To the first list's end.
  void announce(std::uint32_t window_ms = 10'000) {
    ASSERT_TRUE(source_.open());
    ASSERT_TRUE(source_.begin_lazy(window_ms));
    ASSERT_TRUE(list(kBit3, 1));
    ASSERT_TRUE(source_.hear<wire::Voided>());
  }
  Status offer() {
    wire::Offer offer;
    offer.attempt = 1;
    offer.run_state = RunState::kPaused;
    offer.total_pages = kPages;
    return source_.say(offer);
  }
  /// To STARTED.
  void start(std::uint32_t window_ms = 10'000) {
    announce(window_ms);
    ASSERT_TRUE(source_.say(wire::StateEnd{0, 0}));
    ASSERT_TRUE(list(0, 0));
    ASSERT_TRUE(offer());
    const auto ready = source_.hear<wire::Ready>();
    ASSERT_TRUE(ready) << ready.error().to_text();
    ASSERT_TRUE(source_.say(wire::Commit{1}));
    const auto started = source_.hear<wire::Started>();
    ASSERT_TRUE(started) << started.error().to_text();
  }
  /// RESUME to the lanes; what is missing is one page.
  void come_back() {
    const auto resumed = source_.resume(source_.session(), source_.secret(), source_.round());
    ASSERT_TRUE(resumed) << resumed.error().to_text();
    EXPECT_EQ(resumed->digest, 0u);
    const auto missing = source_.hear<wire::Void>();
    ASSERT_TRUE(missing) << missing.error().to_text();
    EXPECT_EQ(missing->words.at(0), kBit3);
    ASSERT_TRUE(source_.hear<wire::VoidEnd>());
    ASSERT_TRUE(source_.join_bulk());
    ASSERT_TRUE(source_.join_urgent());
  }
  void finish() {
    ASSERT_TRUE(source_.lazy_page(source_.bulk(), 3, kContent, source_.round()));
    const auto complete = source_.hear<wire::Complete>();
    ASSERT_TRUE(complete) << complete.error().to_text();
    EXPECT_EQ(complete->pages, 1u);
    EXPECT_EQ(complete->digest, source_.digest());
    ASSERT_TRUE(source_.say(wire::Released{1}));
    IncomingResult in = result();
    EXPECT_EQ(in.outcome, Outcome::kDone);
    EXPECT_EQ(static_cast<FakeTarget&>(*in.guest).memory().bytes(kLow)[3 * kPageSize], kContent);
  }
  IncomingResult result() {
    auto future = result_.get_future();
    if (future.wait_for(seconds(20)) != std::future_status::ready) ADD_FAILURE() << "still waits";
    return future.get();
  }
};

TEST_F(LazyTargetAlone, RightRecordsAreTaken) {
  start();
  finish();
}

TEST_F(LazyTargetAlone, LazyTwiceIsRefused) {
  announce();
  ASSERT_TRUE(source_.say(wire::Lazy{source_.round(), 1000, false}));
  expect_end(ErrorCode::kProtocol);
}

TEST_F(LazyTargetAlone, LazyTwiceBeforeTheFirstListIsRefused) {
  ASSERT_TRUE(source_.open());
  ASSERT_TRUE(source_.begin_lazy());
  ASSERT_TRUE(source_.say(wire::Lazy{source_.round(), 1000, false}));
  expect_end(ErrorCode::kProtocol);
}

TEST_F(LazyTargetAlone, LazyOfAnotherRoundIsRefused) {
  ASSERT_TRUE(source_.open());
  ASSERT_TRUE(source_.say(wire::Lazy{source_.round() + 1, 1000, false}));
  expect_end(ErrorCode::kProtocol);
}

TEST_F(LazyTargetAlone, LanesThatDisagreeAboutTheRoundAreRefused) {
  ASSERT_TRUE(source_.open());
  ASSERT_TRUE(source_.bulk().send(wire::Lazy{source_.round() + 1, 1000, false}, seconds(5)));
  ASSERT_TRUE(source_.say(wire::Lazy{source_.round(), 1000, false}));
  expect_end(ErrorCode::kProtocol);
}

TEST_F(LazyTargetAlone, AListWithAnotherDigestIsRefused) {
  ASSERT_TRUE(source_.open());
  ASSERT_TRUE(source_.begin_lazy());
  ASSERT_TRUE(list(kBit3, 1, 77));
  expect_end(ErrorCode::kIntegrity);
}

TEST_F(LazyTargetAlone, ASecondListWithAnotherDigestIsRefused) {
  announce();
  ASSERT_TRUE(source_.say(wire::StateEnd{0, 0}));
  ASSERT_TRUE(list(1, 1, 77));
  expect_end(ErrorCode::kIntegrity);
}

TEST_F(LazyTargetAlone, AListThatIsNotWholeIsRefused) {
  ASSERT_TRUE(source_.open());
  ASSERT_TRUE(source_.begin_lazy());
  ASSERT_TRUE(list(kBit3, 2));
  expect_end(ErrorCode::kProtocol);
}

TEST_F(LazyTargetAlone, AListBeyondTheRegionIsRefused) {
  ASSERT_TRUE(source_.open());
  ASSERT_TRUE(source_.begin_lazy());
  ASSERT_TRUE(source_.say(wire::Void{wire::RegionHandle{0}, 64, {std::uint64_t{1} << 36}}));
  expect_end(ErrorCode::kProtocol);
}

TEST_F(LazyTargetAlone, TheSecondListBeforeTheStateIsRefused) {
  announce();
  ASSERT_TRUE(list(0, 0));
  expect_end(ErrorCode::kProtocol);
}

TEST_F(LazyTargetAlone, AThirdListIsRefused) {
  announce();
  ASSERT_TRUE(source_.say(wire::StateEnd{0, 0}));
  ASSERT_TRUE(list(0, 0));
  ASSERT_TRUE(list(0, 0));
  expect_end(ErrorCode::kProtocol);
}

TEST_F(LazyTargetAlone, OfferBeforeTheSecondListIsRefused) {
  announce();
  ASSERT_TRUE(source_.say(wire::StateEnd{0, 0}));
  ASSERT_TRUE(offer());
  expect_end(ErrorCode::kProtocol);
}

TEST_F(LazyTargetAlone, ABarrierAfterLazyIsRefused) {
  announce();
  ASSERT_TRUE(source_.say(wire::Barrier{source_.round(), true, 0, 0}));
  expect_end(ErrorCode::kProtocol);
}

TEST_F(LazyTargetAlone, PagesOfAnotherRoundEndTheSessionBeforeCommit) {
  announce();
  ASSERT_TRUE(source_.lazy_page(source_.bulk(), 3, kContent, source_.round() + 1));
  expect_end(ErrorCode::kProtocol);
}

TEST_F(LazyTargetAlone, AnythingButPagesOnItsLanesEndsTheSessionBeforeCommit) {
  announce();
  ASSERT_TRUE(source_.urgent().send(wire::Ping{1, 1}, seconds(5)));
  expect_end(ErrorCode::kProtocol);
}

TEST_F(LazyTargetAlone, PagesOfAnotherRoundEndOnlyTheLinkOnceItRuns) {
  start();
  ASSERT_TRUE(source_.lazy_page(source_.urgent(), 3, std::byte{0x66}, source_.round() + 1, false));
  come_back();
  finish();
}

TEST_F(LazyTargetAlone, APageThatWasNotAnnouncedEndsOnlyTheLink) {
  start();
  ASSERT_TRUE(source_.lazy_page(source_.bulk(), 4, std::byte{0x66}, source_.round(), false));
  come_back();
  finish();
}

TEST_F(LazyTargetAlone, APageWithAWrongHashIsAskedForAgain) {
  start();
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(source_.lazy_page(source_.bulk(), 3, kContent, source_.round(), false));
    const auto demand = source_.urgent().expect<wire::Demand>(seconds(5));
    ASSERT_TRUE(demand) << demand.error().to_text();
    ASSERT_EQ(demand->wanted.size(), 1u);
    EXPECT_EQ(demand->wanted[0].first, 3u);
  }
  finish();
}

TEST_F(LazyTargetAlone, APageThatIsWrongAgainAndAgainEndsTheLink) {
  start();
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(source_.lazy_page(source_.bulk(), 3, kContent, source_.round(), false));
  }
  come_back();
  finish();
}

TEST_F(LazyTargetAlone, ResumeOfAnotherRoundIsNotTakenAndTheRightOneIs) {
  start();
  EXPECT_FALSE(source_.resume(source_.session(), source_.secret(), source_.round() + 1));
  come_back();
  finish();
}

TEST_F(LazyTargetAlone, AStrangersResumeDisturbsNothing) {
  start();
  wire::JoinSecret guessed = source_.secret();
  guessed.bytes[0] ^= std::byte{1};
  const auto unproven = source_.resume(source_.session(), guessed, source_.round());
  ASSERT_FALSE(unproven);
  EXPECT_EQ(unproven.error().code, ErrorCode::kUnauthorized);
  finish();
}

/// The last page has come as the link is lost, and the source never comes back to hear of it.
TEST_F(LazyTargetAlone, TheHostHearsThatAllIsHereThoughTheSourceIsLost) {
  std::promise<void> lost;
  bool held = false;
  // The coordinator finds both at once.
  observe_ = [&](const Event& event) {
    if (event.phase != Phase::kPostcopy || std::exchange(held, true)) return;
    lost.get_future().wait();
  };
  start(100);
  const auto settled = [&](const std::function<bool()>& condition) {
    const auto until = std::chrono::steady_clock::now() + seconds(20);
    while (!condition() && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(milliseconds(1));
    }
    return condition();
  };
  EXPECT_TRUE(source_.lazy_page(source_.bulk(), 3, kContent, source_.round()));
  EXPECT_TRUE(settled([&] {
    unsigned char present = 0;
    std::byte* const page = target_->memory().bytes(kLow).data() + 3 * kPageSize;
    return ::mincore(page, kPageSize, &present) == 0 && (present & 1) != 0;
  }));
  // The newest counts: once one of two is closed, the other one is there. What they ask for is
  // nothing that it could go on with.
  const std::uint32_t wrong = source_.round() + 1;
  auto first = source_.begin_resume(source_.session(), source_.secret(), wrong);
  auto second = source_.begin_resume(source_.session(), source_.secret(), wrong);
  if (first && second) {
    const auto closed = [](RecordChannel& channel) {
      const auto record = channel.receive(milliseconds(1));
      return !record && record.error().code == ErrorCode::kLinkLost;
    };
    EXPECT_TRUE(settled([&] { return closed(**first) || closed(**second); }));
  }
  lost.set_value();
  EXPECT_TRUE(first && second);
  EXPECT_EQ(result().outcome, Outcome::kDone);
  EXPECT_EQ(host_memory_, (std::vector<HostMemory>{HostMemory::kFollows, HostMemory::kComplete}));
}

/// Nobody waits for the source any more: that is told, and so is why.
TEST_F(LazyTargetAlone, AHostThatRunsOutOfMemoryWhileItWaitsLosesTheGuest) {
  on_memory_ = [](HostMemory memory) {
    if (memory == HostMemory::kWaits) throw std::bad_alloc();
  };
  start();
  source_.close();
  const IncomingResult in = result();
  EXPECT_EQ(in.outcome, Outcome::kLost);
  ASSERT_TRUE(in.report.error.has_value());
  EXPECT_EQ(in.report.error->code, ErrorCode::kGuestLost);
  EXPECT_EQ(in.report.missing.pages, 1u);
  EXPECT_NE(in.waiting_memory, nullptr);
  EXPECT_EQ(host_memory_,
            (std::vector<HostMemory>{HostMemory::kFollows, HostMemory::kWaits, HostMemory::kLost}));
}

/// Zeros are not its memory.
TEST_F(LazyTargetAlone, ReleasedBeforeAllIsHereIsNoEnd) {
  start(1);
  ASSERT_TRUE(source_.say(wire::Released{1}));
  const IncomingResult in = result();
  EXPECT_EQ(in.outcome, Outcome::kLost);
  EXPECT_EQ(in.report.missing.pages, 1u);
  EXPECT_NE(in.waiting_memory, nullptr);
}

}  // namespace
}  // namespace migrate::testing
