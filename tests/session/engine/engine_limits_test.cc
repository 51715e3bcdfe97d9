// What ends a wait and what does not: signs of life, a lack of memory, errors that only look like
// a lost link, and sides that give up at awkward moments.
#include <gtest/gtest.h>

#include <atomic>
#include <new>
#include <thread>

#include "session/introductions.hpp"
#include "tests/session/engine/alone_target.hpp"

namespace migrate::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

wire::Hasher some_hasher() {
  wire::SessionRandom random;
  random.bytes.fill(std::byte{1});
  return wire::Hasher(random, random);
}

// ---- Signs of life.

TEST(EngineLimits, ATargetThatIsBusyForLongerThanThePeerTimeoutIsNotGivenUp) {
  RunSpec spec;
  spec.outgoing.peer_timeout = spec.incoming.peer_timeout = seconds(1);
  spec.target.mapped = false;
  auto once = std::make_shared<std::atomic<bool>>(false);
  // A lane of the target stands still: no page moves, and the barrier is not reached.
  spec.target.hook = [once](const char* where) {
    if (std::string_view(where) != "written" || once->exchange(true)) return;
    std::this_thread::sleep_for(seconds(3));
  };
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
}

TEST(EngineLimits, ASourceWhoseLanesAreBusyForLongerThanThePeerTimeoutIsNotGivenUp) {
  RunSpec spec;
  spec.outgoing.peer_timeout = spec.incoming.peer_timeout = seconds(1);
  spec.source.mapped = false;
  auto once = std::make_shared<std::atomic<bool>>(false);
  spec.source.on_read = [once] {
    if (!once->exchange(true)) std::this_thread::sleep_for(seconds(3));
  };
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
}

// A barrier that never comes: both sides are there and wait for each other.
TEST(EngineLimits, SidesThatWaitForEachOtherDoNotKeepEachOtherAliveForEver) {
  for (const std::size_t lane : {0u, 1u}) {
    RunSpec spec;
    spec.outgoing.lanes = 1;
    spec.outgoing.peer_timeout = spec.incoming.peer_timeout = seconds(1);
    RunSpec clean_spec = spec;
    Migration clean(std::move(clean_spec));
    spec.plan.faults = {test::Fault::stall(lane, test::Direction::kToTarget,
                                           clean.bytes_at["switchover"][lane].to_target - 10)};
    Migration run(std::move(spec));
    expect_one_owner(run);
    EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
  }
}

TEST(EngineLimits, SignsOfLifeAreNotReceivedAndNotOutOfOrder) {
  auto pair = make_channel_pair();
  ASSERT_TRUE(pair);
  RecordChannel one(std::move(pair->first), some_hasher());
  RecordChannel other(std::move(pair->second), some_hasher());
  ASSERT_TRUE(one.send(wire::Alive{}, seconds(5)));
  ASSERT_TRUE(one.send(wire::Alive{}, seconds(5)));
  EXPECT_EQ(other.receive(milliseconds(1)).error().code, ErrorCode::kTimeout);
  ASSERT_TRUE(one.send(wire::Alive{}, seconds(5)));
  ASSERT_TRUE(one.send(wire::Commit{7}, seconds(5)));
  const auto commit = other.expect<wire::Commit>(seconds(5));
  ASSERT_TRUE(commit) << commit.error().to_text();
  EXPECT_EQ(commit->attempt, 7u);
  // Nothing was sent for longer than a quarter of nothing, and not for a quarter of an hour.
  ASSERT_TRUE(other.keep_alive(milliseconds(0)));
  ASSERT_TRUE(other.keep_alive(std::chrono::hours(1)));
  EXPECT_EQ(other.sent_bytes(), wire::kRecordHeaderBytes);
}

TEST(EngineLimits, ARecordThatBreaksOffIsNoBeginningOfAnother) {
  auto pair = make_channel_pair();
  ASSERT_TRUE(pair);
  RecordChannel channel(std::move(pair->second), some_hasher());
  channel.set_mid_record_idle(milliseconds(1));
  std::vector<std::byte> record;
  ASSERT_TRUE(wire::encode_record(wire::Commit{7}, 0, some_hasher(), record));
  const iovec half{record.data(), 10};
  ASSERT_TRUE(pair->first->send({&half, 1}, seconds(5)));
  EXPECT_EQ(channel.receive(milliseconds(1)).error().code, ErrorCode::kTimeout);
  const iovec rest{record.data() + 10, record.size() - 10};
  ASSERT_TRUE(pair->first->send({&rest, 1}, seconds(5)));
  EXPECT_EQ(channel.receive(seconds(5)).error().code, ErrorCode::kLinkLost);
}

TEST(EngineLimits, ALaneMayBeSilentWithinARecordWhileOthersAreHeard) {
  auto pair = make_channel_pair();
  ASSERT_TRUE(pair);
  RecordChannel channel(std::move(pair->second), some_hasher());
  channel.set_mid_record_idle(seconds(1));
  std::atomic<std::uint64_t> heard{0};
  channel.set_heard(heard);
  std::vector<std::byte> record;
  ASSERT_TRUE(wire::encode_record(wire::Commit{7}, 0, some_hasher(), record));
  // It is there before anybody waits for it: only what follows may take its time.
  const iovec half{record.data(), 10};
  ASSERT_TRUE(pair->first->send({&half, 1}, seconds(5)));
  std::thread peer([&] {
    for (const auto until = std::chrono::steady_clock::now() + seconds(3);
         std::chrono::steady_clock::now() < until;) {
      ++heard;
      std::this_thread::yield();
    }
    const iovec rest{record.data() + 10, record.size() - 10};
    EXPECT_TRUE(pair->first->send({&rest, 1}, seconds(5)));
  });
  EXPECT_TRUE(channel.expect<wire::Commit>(seconds(60)));
  peer.join();
}

// ---- No memory.

TEST(EngineLimits, ALaneOfTheSourceWithoutMemoryEndsTheMigrationAndTheGuestRunsOn) {
  RunSpec spec;
  spec.source.mapped = false;
  spec.outgoing.reconnect = seconds(20);
  auto reads = std::make_shared<std::atomic<int>>(0);
  spec.source.on_read = [reads] {
    if (++*reads == 5) throw std::bad_alloc();
  };
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
  EXPECT_EQ(run.out.report.error->code, ErrorCode::kNoMemory) << run.text();
  EXPECT_TRUE(run.target().discarded());
  // It has heard so, and does not wait for the source to come back.
  EXPECT_EQ(run.in.report.error->code, ErrorCode::kNoMemory) << run.text();
  EXPECT_EQ(run.in.report.error->side, Side::kSource) << run.text();
}

TEST(EngineLimits, ALaneOfTheTargetWithoutMemoryEndsTheMigrationAndTheGuestRunsOn) {
  RunSpec spec;
  spec.target.mapped = false;
  spec.outgoing.reconnect = seconds(20);
  auto writes = std::make_shared<std::atomic<int>>(0);
  spec.target.hook = [writes](const char* where) {
    if (std::string_view(where) == "written" && ++*writes == 5) throw std::bad_alloc();
  };
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
  EXPECT_EQ(run.out.report.error->code, ErrorCode::kNoMemory) << run.text();
  EXPECT_EQ(run.out.report.error->side, Side::kTarget) << run.text();
}

TEST(EngineLimits, ACoordinatorWithoutMemoryEndsTheMigrationAndTheGuestRunsOn) {
  for (const char* where : {"collect", "save"}) {
    RunSpec spec;
    auto calls = std::make_shared<int>(0);
    spec.source.writes = [where, calls](FakeSource&, const char* now) {
      if (std::string_view(now) == where && ++*calls == (where[0] == 'c' ? 2 : 1)) {
        throw std::bad_alloc();
      }
    };
    Migration run(std::move(spec));
    expect_one_owner(run);
    EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
    EXPECT_EQ(run.out.report.error->code, ErrorCode::kNoMemory) << run.text();
    ASSERT_GE(*calls, 1);
  }
}

// ---- What only looks like a lost link.

TEST(EngineLimits, ATrackersTimeoutIsNoLostLink) {
  for (const ErrorCode code : {ErrorCode::kTimeout, ErrorCode::kLinkLost}) {
    RunSpec spec;
    spec.outgoing.reconnect = seconds(20);
    spec.source.fail_collect = code;
    spec.source.collects_before_failure = 1;
    Migration run(std::move(spec));
    expect_one_owner(run);
    EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
    EXPECT_EQ(run.out.report.error->code, code) << run.text();
    for (const std::string& event : run.source_events) {
      EXPECT_NE(event.substr(0, 12), "reconnecting") << event;
    }
    EXPECT_TRUE(run.target().discarded());
    EXPECT_EQ(run.in.report.error->side, Side::kSource) << run.text();
  }
}

// ---- Giving up at an awkward moment.

/// Calls `on_connect` within each connect(), which then heeds what has interrupted it meanwhile.
class WatchedConnector final : public Connector {
 public:
  WatchedConnector(std::unique_ptr<Connector> inner, std::function<void()> on_connect)
      : inner_(std::move(inner)), on_connect_(std::move(on_connect)) {}
  Result<std::unique_ptr<Channel>> connect(std::chrono::nanoseconds timeout) override {
    on_connect_();
    return inner_->connect(timeout);
  }
  void set_session(std::string_view session) override { inner_->set_session(session); }
  void interrupt() noexcept override { inner_->interrupt(); }
  void resume_after_interrupt() noexcept override { inner_->resume_after_interrupt(); }
  [[nodiscard]] std::string peer() const override { return inner_->peer(); }

 private:
  const std::unique_ptr<Connector> inner_;
  const std::function<void()> on_connect_;
};

/// A migration whose link is cut in the rounds, and which is cancelled before it has another: while
/// there is none, or within connecting.
std::unique_ptr<Migration> cancelled_without_link(std::uint64_t cut_at, bool while_connecting) {
  RunSpec spec;
  spec.outgoing.reconnect = std::chrono::hours(20);
  spec.source.writes = [](FakeSource& guest, const char* where) {
    if (std::string_view(where) == "collect") guest.write(kLow, {1}, 3);
  };
  Outgoing* outgoing = nullptr;
  spec.ready = [&](Outgoing& out, Incoming&) { outgoing = &out; };
  bool lost = false;
  bool cancelled = false;
  const auto cancel = [&] {
    if (!lost || std::exchange(cancelled, true)) return;
    EXPECT_TRUE(outgoing->cancel());
  };
  spec.on_source_event = [&](const Event& event) {
    if (event.name != "reconnecting") return;
    lost = true;
    if (!while_connecting) cancel();
  };
  spec.wrap_connector = [&](std::unique_ptr<Connector> inner) -> std::unique_ptr<Connector> {
    return std::make_unique<WatchedConnector>(std::move(inner), cancel);
  };
  spec.plan.faults = {test::Fault::cut(0, test::Direction::kToSource, cut_at, test::InFlight::kLost,
                                       test::Scope::kLink)};
  auto run = std::make_unique<Migration>(std::move(spec));
  EXPECT_TRUE(cancelled);
  return run;
}

TEST(EngineLimits, ATargetHearsOfACancelThatCameWhileThereWasNoLink) {
  RunSpec clean;
  Migration whole(std::move(clean));
  const std::uint64_t cut_at = whole.bytes_at["precopy"][0].to_source + 1;
  for (const bool while_connecting : {false, true}) {
    const auto run = cancelled_without_link(cut_at, while_connecting);
    SCOPED_TRACE(run->text());
    expect_one_owner(*run);
    EXPECT_EQ(run->out.outcome, Outcome::kCancelled);
    ASSERT_TRUE(run->in.report.error.has_value());
    EXPECT_EQ(run->in.report.error->code, ErrorCode::kCancelled);
    EXPECT_EQ(run->in.report.error->side, Side::kSource);
  }
}

class JoiningTarget : public AloneTarget {};

TEST_F(JoiningTarget, ASourceThatDiesBeforeItsLanesJoinIsNoticedAtOnce) {
  ASSERT_TRUE(source_.greet());
  source_.close();
  expect_end(ErrorCode::kLinkLost);
}

TEST_F(JoiningTarget, ASourceThatGivesUpBeforeItsLanesJoinIsHeardAtOnce) {
  ASSERT_TRUE(source_.greet());
  ASSERT_TRUE(source_.say(
      wire::ErrorRecord{make_error(ErrorCode::kCancelled, "gave up").on(Side::kSource)}));
  expect_end(ErrorCode::kCancelled);
}

// ---- Downtime with --verify full.

TEST(EngineLimits, WhatTheTargetAppliesWhileTheSourceWouldHashIsDowntime) {
  RunSpec spec;
  spec.outgoing.verify = VerifyMode::kFull;
  spec.target.mapped = false;
  auto saving = std::make_shared<std::atomic<bool>>(false);
  spec.source.writes = [saving](FakeSource& guest, const char* where) {
    // The first is the rehearsal's.
    if (std::string_view(where) != "save" || guest.pauses() < 2) return;
    for (std::uint64_t page = 0; page < 30; ++page) guest.write_as_device(kLow, {page}, 11);
    *saving = true;
  };
  spec.target.hook = [saving](const char* where) {
    if (std::string_view(where) == "written" && *saving) {
      std::this_thread::sleep_for(milliseconds(2));
    }
  };
  Migration run(std::move(spec));
  expect_one_owner(run);
  ASSERT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_EQ(run.out.report.integrity.full, "equal");
  const auto& phases = run.out.report.phases_ms;
  EXPECT_GE(phases.final_pages, 60);
  const double parts[] = {phases.quiesce,     phases.final_sync, phases.state_save,
                          phases.final_pages, phases.state_load, phases.handover,
                          phases.start};
  double sum = 0;
  for (const double part : parts) {
    EXPECT_GE(part, 0);
    sum += part;
  }
  EXPECT_NEAR(*run.out.report.downtime_ms, sum, 1e-6);
}

}  // namespace
}  // namespace migrate::testing
