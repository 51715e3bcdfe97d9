// Peers that mean harm, and hosts that have nothing left to give: no memory, no threads.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <new>
#include <thread>

#include "tests/session/engine/alone_target.hpp"
#include "tests/support/no_threads.hpp"
#include "transport/bulk_senders.hpp"

namespace migrate::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::NoThreads;
using SteadyClock = std::chrono::steady_clock;

// ---- Peers.

// Of a type only the first byte is looked at where the second has not come.
TEST_F(AloneTarget, AnOptionalRecordThatComesInPiecesIsNotTakenForTheEnd) {
  ASSERT_TRUE(source_.greet());
  const wire::Hasher& hasher = source_.control().hasher();
  const auto optional =
      wire::encode_header(static_cast<wire::RecordType>(0x8035), 0, 1, {}, hasher);
  ASSERT_TRUE(send(std::span(optional).first(1)));
  const auto until = SteadyClock::now() + seconds(20);
  while (source_.control().channel().unsent_bytes() > 0) {
    ASSERT_LT(SteadyClock::now(), until);
    std::this_thread::yield();
  }
  ASSERT_TRUE(send(std::span(optional).subspan(1)));
  std::vector<std::byte> barrier;
  ASSERT_TRUE(wire::encode_record(wire::Barrier{0, false, 0, 0}, 2, hasher, barrier));
  ASSERT_TRUE(send(barrier));
  expect_end(ErrorCode::kProtocol);
}

// The source reads the control lane when a round is over: what is said before fills the socket.
TEST_F(AloneTarget, ItSaysNothingWhileTheSourceIsInARound) {
  ASSERT_TRUE(source_.open());
  const auto until =
      SteadyClock::now() + 5 * RecordChannel::alive_period(options_.peer_timeout) / 2;
  for (std::uint64_t page = 0; SteadyClock::now() < until; ++page) {
    if (page < 100) {
      ASSERT_TRUE(source_.page(0, page, std::byte{1}));
    }
    ASSERT_FALSE(source_.control().has_news(milliseconds(20)));
  }
  ASSERT_TRUE(source_.end_round(false));
  EXPECT_TRUE(source_.hear<wire::BarrierAck>());
}

TEST(EngineNeed, APeerThatSaysNothingButThatItLivesDoesNotKeepAReceiver) {
  auto pair = make_channel_pair();
  ASSERT_TRUE(pair);
  wire::SessionRandom random;
  random.bytes.fill(std::byte{1});
  const wire::Hasher hasher(random, random);
  RecordChannel receiver(std::move(pair->first), hasher);
  std::atomic<bool> enough{false};
  std::thread peer([&] {
    RecordChannel sender(std::move(pair->second), hasher);
    while (!enough && sender.send(wire::Alive{}, seconds(20))) {
    }
  });
  EXPECT_EQ(receiver.receive(milliseconds(20)).error().code, ErrorCode::kTimeout);
  EXPECT_EQ(receiver.receive(milliseconds(0)).error().code, ErrorCode::kTimeout);
  enough = true;
  receiver.channel().shutdown();
  peer.join();
}

// ---- No threads.

TEST(EngineNeed, LanesOfTheSourceThatGetNoThreadsFailWithoutEndingTheProcess) {
  World world;
  const Region region{kLow, {{0}, 100}, Backing::kAnonymous};
  FakeSource guest(world, {region}, FakeSource::Script{});
  SourceGuest& source = guest;
  wire::SessionRandom random;
  random.bytes.fill(std::byte{1});
  const wire::PageDigest digest(wire::Hasher(random, random));
  PageLedger ledger(digest.zero_hash());
  ASSERT_TRUE(ledger.add(0, region));
  auto pair = make_channel_pair();
  ASSERT_TRUE(pair);
  std::vector<std::unique_ptr<RecordChannel>> lanes;
  lanes.push_back(std::make_unique<RecordChannel>(std::move(pair->first)));
  lanes.push_back(std::make_unique<RecordChannel>(std::move(pair->second)));
  const NoThreads none;
  BulkSenders senders(
      std::move(lanes),
      {.pages = source.pages(), .ledger = ledger, .digest = digest, .idle_max = seconds(5)});
  const auto sent = senders.finish_round(0, false);
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::kNoMemory) << sent.error().to_text();
}

TEST(EngineNeed, ATargetThatGetsNoThreadForAConnectionDropsIt) {
  RunSpec spec;
  auto none = std::make_shared<std::unique_ptr<NoThreads>>();
  spec.on_described = [none](const GuestDescription&) -> Status {
    *none = std::make_unique<NoThreads>();
    return {};
  };
  Migration run(std::move(spec));
  none->reset();
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
}

TEST_F(AloneTarget, ItSaysThatItsLanesGetNoThreadsAndLeavesNoRecord) {
  ASSERT_TRUE(source_.greet());
  auto lane = network_.connector()->connect(seconds(5));
  ASSERT_TRUE(lane);
  std::vector<std::byte> join;
  ASSERT_TRUE(wire::encode_record(
      wire::Join{source_.session(), wire::LaneId{1}, wire::LaneRole::kBulk, source_.secret()}, 0,
      source_.control().hasher(), join));
  const iovec first{join.data(), 1};
  ASSERT_TRUE((*lane)->send({&first, 1}, seconds(5)));
  // The connection has its thread once something is read from it.
  const auto until = SteadyClock::now() + seconds(20);
  while ((*lane)->unsent_bytes() > 0) {
    ASSERT_LT(SteadyClock::now(), until);
    std::this_thread::yield();
  }
  const NoThreads none;
  const iovec rest{join.data() + 1, join.size() - 1};
  ASSERT_TRUE((*lane)->send({&rest, 1}, seconds(5)));
  EXPECT_EQ(source_.hear_end().code, ErrorCode::kNoMemory);
  expect_end(ErrorCode::kNoMemory);
  EXPECT_TRUE(std::filesystem::is_empty(options_.runtime_dir + "/sessions"));
}

// ---- No memory for what is said to observers, where nothing else would catch it.

TEST(EngineNeed, AnObserverWithoutMemoryDoesNotKeepAGuestFromLeaving) {
  RunSpec spec;
  spec.on_source_event = [](const Event&) { throw std::bad_alloc(); };
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
}

TEST_F(AloneTarget, AnObserverWithoutMemoryDoesNotKeepItFromWaitingForItsSource) {
  observe_ = [](const Event&) { throw std::bad_alloc(); };
  ASSERT_TRUE(source_.open());
  ASSERT_TRUE(source_.say(wire::ResumeTerms{20'000}));
  ASSERT_TRUE(source_.end_round(false));
  ASSERT_TRUE(source_.hear<wire::BarrierAck>());
  source_.close();
  const auto resumed = source_.resume(source_.session(), source_.secret(), 1);
  EXPECT_TRUE(resumed) << resumed.error().to_text();
}

// ---- No memory, once the guest is committed.

TEST(EngineNeed, AGuestWhoseStartRunsOutOfMemoryMayHaveStarted) {
  RunSpec spec;
  spec.target.hook = [](const char* where) {
    if (std::string_view(where) == "start") throw std::bad_alloc();
  };
  Migration run(std::move(spec));
  EXPECT_EQ(run.in.outcome, Outcome::kLost) << run.text();
  EXPECT_FALSE(run.source().running());
  EXPECT_TRUE(run.out.outcome == Outcome::kLost || run.out.outcome == Outcome::kUncertain)
      << run.text();
}

TEST(EngineNeed, AnArbiterWithoutMemoryIsAskedAgain) {
  class ForgetfulArbiter final : public Arbiter {
   public:
    Result<bool> acquire(const std::string&, Side) override {
      if (++asked == 1) throw std::bad_alloc();
      return true;
    }
    int asked = 0;
  };
  ForgetfulArbiter arbiter;
  RunSpec spec;
  spec.outgoing.ask_window = spec.incoming.ask_window = seconds(20);
  spec.target_arbiter = &arbiter;
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_EQ(arbiter.asked, 2);
}

}  // namespace
}  // namespace migrate::testing
