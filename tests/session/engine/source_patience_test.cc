// How long a source waits, its guest paused, for a target that says nothing but that it lives.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "session/host_identity.hpp"
#include "session/source_driver.hpp"
#include "tests/session/engine/engine_run.hpp"
#include "tests/support/test_clock.hpp"

namespace migrate::testing {
namespace {

using session::SourceDriver;
using session::SourceEvent;
using session::SourceState;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kLong{60};

/// Counts how often it is looked at.
class WatchedClock final : public Clock {
 public:
  [[nodiscard]] std::chrono::steady_clock::time_point now() const override {
    ++looks_;
    return inner.now();
  }
  [[nodiscard]] std::chrono::nanoseconds boottime() const override { return inner.boottime(); }
  [[nodiscard]] int looks() const { return looks_; }
  test::TestClock inner;

 private:
  mutable std::atomic<int> looks_{0};
};

struct Case {
  seconds hash_took;
  seconds passes;  ///< Between OFFER and READY.
  bool ready_in_time;
};

class SourcePatience : public ::testing::TestWithParam<Case> {
 protected:
  SourcePatience() {
    auto pair = make_channel_pair();
    MIGRATE_CHECK(pair.has_value());
    wire::SessionRandom random;
    random.bytes.fill(std::byte{1});
    keys_.hasher = wire::Hasher(random, random);
    target_ = std::make_unique<RecordChannel>(std::move(pair->second), keys_.hasher);
    OutgoingOptions options;
    options.peer_timeout = seconds(20);
    driver_ = std::make_unique<SourceDriver>(
        SourceDriver::Context{.guest = guest_,
                              .connector = nullptr,
                              .arbiter = nullptr,
                              .clock = clock_,
                              .options = options,
                              .keys = keys_,
                              .watch = [](Channel*) {},
                              .say = [](const std::string&, const std::string&) {},
                              .check_ready = [](const wire::Ready&) -> Status { return {}; },
                              .close_gate = [] { return true; },
                              .make_offer =
                                  [](std::uint32_t attempt) {
                                    wire::Offer offer;
                                    offer.attempt = attempt;
                                    return offer;
                                  },
                              .hash_took = [] { return nanoseconds(GetParam().hash_took); }},
        std::make_unique<RecordChannel>(std::move(pair->first), keys_.hasher));
  }

  /// The target: lets the time pass, and says that it lives until the source must have seen both.
  void be_busy() {
    ASSERT_TRUE(target_->expect<wire::Offer>(kLong));
    const auto until = std::chrono::steady_clock::now() + kLong;
    // It counts from when it has sent OFFER, which is here before it has looked at the clock.
    for (const int begun = clock_.looks(); clock_.looks() < begun + 4;) {
      ASSERT_LT(std::chrono::steady_clock::now(), until);
      ASSERT_TRUE(target_->send(wire::Alive{}, kLong));
      std::this_thread::sleep_for(milliseconds(1));
    }
    clock_.inner.advance(GetParam().passes);
    const int before = clock_.looks();
    while (GetParam().ready_in_time ? clock_.looks() < before + 4 : !target_->has_news()) {
      ASSERT_LT(std::chrono::steady_clock::now(), until);
      ASSERT_TRUE(target_->send(wire::Alive{}, kLong));
      std::this_thread::sleep_for(milliseconds(1));
    }
    if (!GetParam().ready_in_time) return;
    wire::Ready ready;
    ready.attempt = 1;
    ready.lease_ns = 10'000'000'000;
    ASSERT_TRUE(target_->send(ready, kLong));
    ASSERT_TRUE(target_->expect<wire::Commit>(kLong));
    ASSERT_TRUE(target_->send(wire::Started{1, 0}, kLong));
  }

  World world_;
  FakeSource fake_{world_, {{kLow, {{0}, 10}, Backing::kAnonymous}}, FakeSource::Script{}};
  SourceGuest& guest_ = fake_;
  WatchedClock clock_;
  session::SourceKeys keys_;
  std::unique_ptr<RecordChannel> target_;
  std::unique_ptr<SourceDriver> driver_;
};

TEST_P(SourcePatience, EndsAndTheGuestGoesOnHere) {
  std::thread target([this] { be_busy(); });
  driver_->drive(SourceEvent::Kind::kBegin);
  EXPECT_FALSE(fake_.running());
  driver_->drive(SourceEvent::Kind::kOfferable);
  driver_->settle();
  target.join();
  if (GetParam().ready_in_time) {
    EXPECT_EQ(driver_->machine().state(), SourceState::kReleased);
    return;
  }
  EXPECT_EQ(driver_->machine().state(), SourceState::kKept);
  EXPECT_TRUE(fake_.running());
  EXPECT_TRUE(fake_.holds_lock());
  ASSERT_TRUE(driver_->error().has_value());
  EXPECT_EQ(driver_->error()->code, ErrorCode::kTimeout);
  EXPECT_NE(driver_->error()->message.find("not ready"), std::string::npos)
      << driver_->error()->to_text();
  const auto told = target_->expect<wire::Commit>(kLong);
  ASSERT_FALSE(told);
  EXPECT_EQ(told.error().side, Side::kSource) << told.error().to_text();
}

// Ten times the peer timeout of 20 s, and twenty times what the source took to hash its memory.
INSTANTIATE_TEST_SUITE_P(Times, SourcePatience,
                         ::testing::Values(Case{seconds(0), seconds(199), true},
                                           Case{seconds(0), seconds(201), false},
                                           Case{seconds(10), seconds(399), true},
                                           Case{seconds(10), seconds(401), false}));

}  // namespace
}  // namespace migrate::testing
