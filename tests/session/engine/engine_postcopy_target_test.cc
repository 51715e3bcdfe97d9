// Post-copy with a target that does not keep to the protocol: before COMMIT the guest is back,
// after it no page of it is given away, and nobody waits for ever.
#include <gtest/gtest.h>

#include <thread>

#include "tests/session/engine/engine_run.hpp"
#include "tests/session/engine/scripted_target.hpp"

namespace migrate::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kPages = 100;

// The real source, whose target is scripted.
class LazySourceAlone : public ::testing::Test {
 protected:
  LazySourceAlone() {
    options_.strategy = Strategy::kPostcopy;
    options_.lanes = 1;
    options_.reconnect = milliseconds(500);
    options_.peer_timeout = options_.hello_timeout = options_.connect_timeout = seconds(5);
    options_.ask_window = milliseconds(200);
  }
  ~LazySourceAlone() override { join(); }

  void begin() {
    auto guest = std::make_unique<FakeSource>(
        world_, std::vector<Region>{{kLow, {{0}, kPages}, Backing::kAnonymous}},
        FakeSource::Script{});
    for (std::uint64_t page = 0; page < kPages; page += 2) guest->write(kLow, {page}, 7);
    outgoing_ = std::make_unique<Outgoing>(std::move(guest), options_);
    thread_ = std::thread([this] { out_ = outgoing_->run(*connector_); });
    ASSERT_TRUE(target_.open());
  }
  /// To STARTED.
  void start() {
    begin();
    ASSERT_TRUE(target_.say(wire::LazyTerms{}));
    ASSERT_TRUE(target_.take_first_list());
    const Status started = target_.start();
    ASSERT_TRUE(started) << started.error().to_text();
  }
  void join() {
    acceptor_.reset();
    if (thread_.joinable()) thread_.join();
  }
  /// What went wrong before COMMIT costs nobody the guest.
  void expect_back(ErrorCode code) {
    join();
    EXPECT_EQ(out_.outcome, Outcome::kFailed);
    ASSERT_TRUE(out_.report.error.has_value());
    EXPECT_EQ(out_.report.error->code, code) << out_.report.error->to_text();
    EXPECT_TRUE(guest().running());
    EXPECT_TRUE(guest().holds_lock());
  }
  /// The target said that it runs there, and then nothing that is of use.
  void expect_owed() {
    join();
    EXPECT_EQ(out_.outcome, Outcome::kUncertain);
    ASSERT_TRUE(out_.report.error.has_value());
    EXPECT_FALSE(guest().running());
    EXPECT_EQ(world_.released, 0) << "its pages are gone";
    ASSERT_NE(out_.uncertain, nullptr);
  }
  FakeSource& guest() { return static_cast<FakeSource&>(*out_.guest); }

  World world_;
  OutgoingOptions options_;
  test::InProcessNetwork network_;
  std::unique_ptr<Connector> connector_ = network_.connector();
  std::unique_ptr<Acceptor> acceptor_ = network_.acceptor();
  ScriptedTarget target_{*acceptor_};
  std::unique_ptr<Outgoing> outgoing_;
  OutgoingResult out_;
  std::thread thread_;
};

TEST_F(LazySourceAlone, GranulesOfNoRegionAreRefused) {
  begin();
  ASSERT_TRUE(target_.say(wire::LazyTerms{{{wire::RegionHandle{7}, 4}}}));
  expect_back(ErrorCode::kProtocol);
}

TEST_F(LazySourceAlone, GranulesThatDoNotFitAreRefused) {
  begin();
  ASSERT_TRUE(target_.say(wire::LazyTerms{{{wire::RegionHandle{0}, 512}}}));
  expect_back(ErrorCode::kProtocol);
}

TEST_F(LazySourceAlone, AnotherDigestBeforeTheSwitchoverGivesTheGuestBack) {
  begin();
  ASSERT_TRUE(target_.say(wire::LazyTerms{}));
  ASSERT_TRUE(target_.hear<wire::VoidEnd>());
  ASSERT_TRUE(target_.say(wire::Voided{12345}));
  expect_back(ErrorCode::kIntegrity);
}

TEST_F(LazySourceAlone, InstalledBeforeTheStartGivesTheGuestBack) {
  begin();
  ASSERT_TRUE(target_.say(wire::LazyTerms{}));
  ASSERT_TRUE(target_.take_first_list());
  ASSERT_TRUE(target_.hear<wire::Offer>());
  ASSERT_TRUE(target_.say(wire::Installed{wire::RegionHandle{0}, 0, {1}}));
  expect_back(ErrorCode::kProtocol);
  EXPECT_EQ(guest().released_pages(), 0u);
}

TEST_F(LazySourceAlone, ADemandBeyondTheRegionBeforeTheStartGivesTheGuestBack) {
  begin();
  ASSERT_TRUE(target_.say(wire::LazyTerms{}));
  ASSERT_TRUE(target_.take_first_list());
  ASSERT_TRUE(target_.hear<wire::Offer>());
  ASSERT_TRUE(
      target_.urgent().send(wire::Demand{{{wire::RegionHandle{0}, kPages - 1, 2}}}, seconds(5)));
  // Its lanes are of no use any more: it has read that, before it can see that nobody is here.
  while (target_.urgent().receive(seconds(5))) continue;
  target_.close();
  expect_back(ErrorCode::kProtocol);
}

TEST_F(LazySourceAlone, CompleteWithAnotherDigestKeepsThePages) {
  start();
  ASSERT_TRUE(target_.say(wire::Complete{50, target_.digest() + 1, 0, 0, 0, 0, 0, {}}));
  expect_owed();
  EXPECT_EQ(out_.report.integrity.digest, "unequal");
  EXPECT_NE(out_.report.error->message.find("another digest"), std::string::npos);
}

TEST_F(LazySourceAlone, CompleteBeforeAllWasSentKeepsThePages) {
  options_.push_bandwidth_bytes_per_s = 4096;
  start();
  ASSERT_TRUE(target_.say(wire::Complete{50, target_.digest(), 0, 0, 0, 0, 0, {}}));
  expect_owed();
}

TEST_F(LazySourceAlone, InstalledThatNobodyAskedForReleasesNothing) {
  start();
  ASSERT_FALSE(target_.lazy().installed);
  ASSERT_TRUE(target_.say(wire::Installed{wire::RegionHandle{0}, 0, {1}}));
  ASSERT_TRUE(target_.take_resume());
  target_.close();
  expect_owed();
  EXPECT_EQ(guest().released_pages(), 0u);
}

TEST_F(LazySourceAlone, InstalledBeyondTheRegionReleasesNothing) {
  options_.release_early = true;
  start();
  ASSERT_TRUE(target_.say(wire::Installed{wire::RegionHandle{0}, 64, {std::uint64_t{1} << 36}}));
  ASSERT_TRUE(target_.take_resume());
  target_.close();
  expect_owed();
  EXPECT_EQ(guest().released_pages(), 0u);
}

class WrongDemand : public LazySourceAlone,
                    public ::testing::WithParamInterface<wire::Demand::Pages> {};
INSTANTIATE_TEST_SUITE_P(
    Engine, WrongDemand,
    ::testing::Values(wire::Demand::Pages{wire::RegionHandle{0}, kPages, 1},
                      wire::Demand::Pages{wire::RegionHandle{0}, kPages - 1, 2},
                      wire::Demand::Pages{wire::RegionHandle{0}, std::uint64_t{1} << 40, 1},
                      wire::Demand::Pages{wire::RegionHandle{1}, 0, 1}));

/// The link is of no use then, and a target that comes to its senses is served on the next one.
TEST_P(WrongDemand, EndsTheLinkOnly) {
  start();
  ASSERT_TRUE(target_.urgent().send(wire::Demand{{GetParam()}}, seconds(5)));
  const auto resume = target_.take_resume();
  ASSERT_TRUE(resume) << resume.error().to_text();
  EXPECT_EQ(resume->round, target_.lazy().round);
  target_.close();
  expect_owed();
}

/// What a target says when the source comes back, and cannot be.
struct WrongResumed {
  const char* name;
  std::uint32_t round_more = 0;
  std::uint64_t digest_more = 0;
  std::uint64_t first = 0;  ///< Of the pages that it says are missing: one, whose bit is this.
  std::uint64_t word = 0;
  std::uint64_t named = 0;
};
class ComingBack : public LazySourceAlone, public ::testing::WithParamInterface<WrongResumed> {};
INSTANTIATE_TEST_SUITE_P(
    Engine, ComingBack,
    ::testing::Values(WrongResumed{"AnotherRound", 1}, WrongResumed{"AnotherDigest", 0, 1},
                      WrongResumed{"BeyondTheRegion", 0, 0, 64, std::uint64_t{1} << 36, 1},
                      WrongResumed{"NotAllNamed", 0, 0, 0, 1, 2}),
    [](const auto& param) { return std::string(param.param.name); });

TEST_P(ComingBack, IsNotBelievedAndNothingIsReleased) {
  start();
  target_.close();
  const WrongResumed wrong = GetParam();
  // As often as it tries, which it does for less than that.
  while (target_.take_resume(milliseconds(700))) {
    const std::uint64_t digest = target_.digest() + wrong.digest_more;
    if (!target_.say(wire::Resumed{target_.lazy().round + wrong.round_more, digest})) continue;
    if (wrong.word != 0 &&
        !target_.say(wire::Void{wire::RegionHandle{0}, wrong.first, {wrong.word}})) {
      continue;
    }
    static_cast<void>(target_.say(wire::VoidEnd{wrong.named, digest}));
    // It hangs up.
    static_cast<void>(target_.hear<wire::Released>());
    target_.close();
  }
  expect_owed();
}

TEST_F(LazySourceAlone, AnAnswerThatItWasDiscardedDoesNotBringTheGuestBack) {
  start();
  wire::Discarded discarded;
  discarded.attempt = 1;
  discarded.error = make_error(ErrorCode::kGuest, "changed my mind");
  ASSERT_TRUE(target_.say(discarded));
  target_.close();
  expect_owed();
}

}  // namespace
}  // namespace migrate::testing
