// What ends a wait and what does not: signs of life, a lack of memory, errors that only look like
// a lost link, and sides that give up at awkward moments.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <new>
#include <thread>

#include "session/introductions.hpp"
#include "tests/session/engine/engine_run.hpp"
#include "tests/session/engine/scripted_source.hpp"

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
  }
}

// ---- Giving up at an awkward moment.

/// A migration that is cancelled while its link is down, before its source has come back.
std::unique_ptr<Migration> cancelled_without_link(std::uint64_t cut_at) {
  RunSpec spec;
  spec.outgoing.reconnect = std::chrono::hours(20);
  spec.source.writes = [](FakeSource& guest, const char* where) {
    if (std::string_view(where) == "collect") guest.write(kLow, {1}, 3);
  };
  Outgoing* outgoing = nullptr;
  spec.ready = [&](Outgoing& out, Incoming&) { outgoing = &out; };
  spec.on_source_event = [&](const Event& event) {
    if (event.name != "reconnecting") return;
    EXPECT_TRUE(outgoing->cancel());
  };
  spec.plan.faults = {test::Fault::cut(0, test::Direction::kToSource, cut_at, test::InFlight::kLost,
                                       test::Scope::kLink)};
  return std::make_unique<Migration>(std::move(spec));
}

TEST(EngineLimits, ATargetHearsOfACancelThatCameWhileThereWasNoLink) {
  RunSpec clean;
  Migration whole(std::move(clean));
  const std::uint64_t cut_at = whole.bytes_at["precopy"][0].to_source + 1;
  // The source has one try, of a second, to reach it: where the machine is too busy for that, the
  // target hears nothing, its window is a day, and the test cancels it itself in the end.
  constexpr int kTries = 8;
  for (int tried = 1;; ++tried) {
    const auto run = cancelled_without_link(cut_at);
    expect_one_owner(*run);
    EXPECT_EQ(run->out.outcome, Outcome::kCancelled) << run->text();
    ASSERT_TRUE(run->in.report.error.has_value());
    EXPECT_EQ(run->in.report.error->code, ErrorCode::kCancelled) << run->text();
    if (run->in.report.error->side == Side::kSource) return;
    ASSERT_LT(tried, kTries) << run->text();
  }
}

/// The target alone.
class JoiningTarget : public ::testing::Test, private Incoming::Host {
 protected:
  JoiningTarget() {
    std::string path = ::testing::TempDir() + "/joining-XXXXXX";
    MIGRATE_CHECK(mkdtemp(path.data()) != nullptr);
    options_.runtime_dir = path;
    // Nobody waits for that: what ends it sooner is what the tests are about.
    options_.hello_timeout = std::chrono::hours(1);
    incoming_ =
        std::make_unique<Incoming>(std::make_unique<FakeTarget>(world_, FakeTarget::Script{}),
                                   options_, static_cast<Incoming::Host&>(*this));
    thread_ = std::thread([this] { result_.set_value(incoming_->run(*acceptor_)); });
  }
  ~JoiningTarget() override {
    incoming_->cancel();
    thread_.join();
    std::filesystem::remove_all(options_.runtime_dir);
  }

  /// A source that has its WELCOME and has not joined a lane.
  std::unique_ptr<RecordChannel> welcomed() {
    wire::Hello hello;
    hello.session.bytes.fill(std::byte{0x51});
    hello.random.bytes.fill(std::byte{7});
    hello.guest.name = "scripted";
    hello.guest.regions = {{kLow, {{0}, 100}, Backing::kAnonymous}};
    auto channel = network_.connector()->connect(seconds(5));
    if (!channel) return nullptr;
    auto control = std::make_unique<RecordChannel>(*std::move(channel));
    if (!control->send(hello, seconds(5))) return nullptr;
    const auto welcome = control->expect<wire::Welcome>(seconds(5));
    if (!welcome) return nullptr;
    control->set_hasher(wire::Hasher(hello.random, welcome->random));
    return control;
  }
  void expect_end(ErrorCode code) {
    auto future = result_.get_future();
    ASSERT_EQ(future.wait_for(seconds(20)), std::future_status::ready);
    const IncomingResult in = future.get();
    EXPECT_EQ(in.report.error->code, code) << in.report.error->to_text();
  }

  Status on_described(const GuestDescription&) override { return {}; }
  Status on_ready() override { return {}; }
  void on_started() override {}

  World world_;
  IncomingOptions options_;
  test::InProcessNetwork network_;
  std::unique_ptr<Acceptor> acceptor_ = network_.acceptor();
  std::unique_ptr<Incoming> incoming_;
  std::promise<IncomingResult> result_;
  std::thread thread_;
};

TEST_F(JoiningTarget, ASourceThatDiesBeforeItsLanesJoinIsNoticedAtOnce) {
  auto control = welcomed();
  ASSERT_NE(control, nullptr);
  control.reset();
  expect_end(ErrorCode::kLinkLost);
}

TEST_F(JoiningTarget, ASourceThatGivesUpBeforeItsLanesJoinIsHeardAtOnce) {
  auto control = welcomed();
  ASSERT_NE(control, nullptr);
  ASSERT_TRUE(control->send(
      wire::ErrorRecord{make_error(ErrorCode::kCancelled, "gave up").on(Side::kSource)},
      seconds(5)));
  expect_end(ErrorCode::kCancelled);
}

// ---- Downtime with --verify full.

TEST(EngineLimits, WhatTheTargetAppliesWhileTheSourceWouldHashIsDowntime) {
  RunSpec spec;
  spec.outgoing.verify = VerifyMode::kFull;
  spec.target.mapped = false;
  auto saving = std::make_shared<std::atomic<bool>>(false);
  spec.source.writes = [saving](FakeSource& guest, const char* where) {
    if (std::string_view(where) != "save") return;
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
