// The target against sources that misbehave, and promises that only a bad moment breaks.
#include <gtest/gtest.h>

#include <array>
#include <condition_variable>
#include <filesystem>
#include <future>
#include <mutex>
#include <thread>

#include "session/state_stream.hpp"
#include "tests/session/engine/engine_run.hpp"
#include "tests/session/engine/scripted_source.hpp"
#include "transport/bulk_senders.hpp"

namespace migrate::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kPages = 4096;
const Region kRegion{{0, 1, 0}, {{0}, kPages}, Backing::kAnonymous};

/// Memory that is written through write(), and notices when that happens after it was dropped.
class WatchfulTarget final : public TargetGuest, private PageSink {
 public:
  struct Seen {
    std::mutex mutex;
    std::condition_variable changed;
    std::uint64_t writes = 0;
    bool dropped = false;
    bool written_after_drop = false;
    std::optional<RunState> started;
    std::vector<std::byte> memory = std::vector<std::byte>(kPages * kPageSize);
    std::function<void(std::uint64_t)> on_write;  ///< No lock held.
  };
  explicit WatchfulTarget(std::shared_ptr<Seen> seen) : seen_(std::move(seen)) {}

  Status prepare(const GuestDescription&) override { return {}; }
  PageSink& pages() override { return *this; }
  Status load_state(StateReader&) override { return {}; }
  Result<std::chrono::nanoseconds> rehearse_load() override {
    return make_error(ErrorCode::kUnsupported, "loading is not rehearsed here");
  }
  Status acquire() override { return {}; }
  Status yield() override { return {}; }
  Status start(RunState state) override {
    std::lock_guard lock(seen_->mutex);
    seen_->started = state;
    return {};
  }
  void discard() override {
    std::unique_lock lock(seen_->mutex);
    seen_->dropped = true;
    // A lane that still works writes in this time: the source never stops sending.
    seen_->changed.wait_for(lock, milliseconds(100), [&] { return seen_->written_after_drop; });
  }
  std::vector<FaultSource> fault_sources() override { return {}; }
  std::vector<int> vcpu_threads() override { return {}; }
  PacketSink* packet_sink() override { return nullptr; }

 private:
  Status update_regions(const RegionDelta& delta) override {
    if (delta.added.empty()) return {};
    return make_error(ErrorCode::kNoMemory, "no room for more");
  }
  Status write(const RegionId&, PageRange range, std::span<const std::byte> bytes) override {
    std::uint64_t writes = 0;
    {
      std::lock_guard lock(seen_->mutex);
      if (seen_->dropped) seen_->written_after_drop = true;
      seen_->changed.notify_all();
      std::copy(
          bytes.begin(), bytes.end(),
          seen_->memory.begin() + static_cast<std::ptrdiff_t>(range.first.number * kPageSize));
      writes = ++seen_->writes;
    }
    if (seen_->on_write) seen_->on_write(writes);
    return {};
  }
  Status zero(const RegionId&, PageRange) override { return {}; }
  Status read(const RegionId&, PageRange range, std::span<std::byte> into) override {
    std::copy_n(seen_->memory.begin() + static_cast<std::ptrdiff_t>(range.first.number * kPageSize),
                into.size(), into.begin());
    return {};
  }
  std::span<std::byte> mapped(const RegionId&) override { return {}; }

  std::shared_ptr<Seen> seen_;
};

/// The real target with a scripted source.
class Target : public ::testing::Test, public Incoming::Host {
 protected:
  Target() {
    std::string path = ::testing::TempDir() + "/engine-review-XXXXXX";
    MIGRATE_CHECK(mkdtemp(path.data()) != nullptr);
    options_.runtime_dir = path;
    options_.hello_timeout = options_.peer_timeout = seconds(5);
    options_.ask_window = milliseconds(100);
  }
  ~Target() override {
    if (incoming_ != nullptr) {
      incoming_->cancel();
      source_.close();
      thread_.join();
    }
    std::filesystem::remove_all(options_.runtime_dir);
  }

  void open() {
    incoming_ =
        std::make_unique<Incoming>(std::make_unique<WatchfulTarget>(seen_), options_, *this);
    thread_ = std::thread([this] { result_.set_value(incoming_->run(*acceptor_)); });
    Status opened = source_.open();
    ASSERT_TRUE(opened) << opened.error().to_text();
  }
  std::optional<IncomingResult> result() {
    auto future = result_.get_future();
    if (future.wait_for(seconds(20)) != std::future_status::ready) return std::nullopt;
    return future.get();
  }

  Status on_described(const GuestDescription&) override { return {}; }
  Status on_ready() override { return {}; }
  void on_started() override {}
  void on_memory(Memory, const std::string&) override {}

  IncomingOptions options_;
  std::shared_ptr<WatchfulTarget::Seen> seen_ = std::make_shared<WatchfulTarget::Seen>();
  test::InProcessNetwork network_;
  std::unique_ptr<Acceptor> acceptor_ = network_.acceptor();
  ScriptedSource source_{network_.connector(), {kRegion}};
  std::unique_ptr<Incoming> incoming_;
  std::promise<IncomingResult> result_;
  std::thread thread_;
};

// A cancelled target drops its guest's memory while the source goes on sending.
TEST_F(Target, NothingIsWrittenToMemoryThatWasDropped) {
  seen_->on_write = [this](std::uint64_t writes) {
    if (writes != 10) return;
    EXPECT_TRUE(incoming_->cancel());
  };
  open();
  for (std::uint64_t page = 0; page < kPages; ++page) {
    if (!source_.page(0, page, std::byte{3})) break;
  }
  const auto in = result();
  ASSERT_TRUE(in.has_value());
  EXPECT_EQ(in->outcome, Outcome::kCancelled);
  std::lock_guard lock(seen_->mutex);
  EXPECT_TRUE(seen_->dropped);
  EXPECT_FALSE(seen_->written_after_drop);
}

TEST_F(Target, ARegionRemovedTwiceAtOnceIsRefused) {
  open();
  wire::Regions twice;
  twice.removed = {wire::RegionHandle{0}, wire::RegionHandle{0}};
  ASSERT_TRUE(source_.say(twice));
  ASSERT_TRUE(source_.end_round(false));
  EXPECT_EQ(source_.hear_end().code, ErrorCode::kProtocol);
  EXPECT_EQ(result()->outcome, Outcome::kFailed);
}

TEST_F(Target, ARegionWithAHandleOutOfTurnIsRefused) {
  open();
  wire::Regions far;
  far.first_handle = wire::RegionHandle{7};
  far.added = {{{0, 2, 0}, {{1u << 20}, 1}, Backing::kAnonymous}};
  ASSERT_TRUE(source_.say(far));
  EXPECT_EQ(source_.hear_end().code, ErrorCode::kProtocol);
}

// The guest's host is asked before anything is allocated for it.
TEST_F(Target, ARegionLargerThanAnyHostIsRefusedByTheGuestsHost) {
  open();
  wire::Regions huge;
  huge.first_handle = wire::RegionHandle{1};
  huge.added = {{{0, 2, 0}, {{1u << 20}, std::uint64_t{1} << 51}, Backing::kAnonymous}};
  ASSERT_TRUE(source_.say(huge));
  ASSERT_TRUE(source_.end_round(false));
  const Error error = source_.hear_end();
  EXPECT_EQ(error.code, ErrorCode::kNoMemory) << error.to_text();
  EXPECT_EQ(result()->outcome, Outcome::kFailed);
}

TEST_F(Target, AnAbortOfAFormerAttemptLeavesTheCurrentOneWhole) {
  open();
  ASSERT_TRUE(source_.page(0, 1, std::byte{1}));
  ASSERT_TRUE(source_.offer(2, kPages));
  ASSERT_TRUE(source_.say(wire::Abort{1, wire::AbortScope::kAttempt, {}}));
  ASSERT_TRUE(source_.say(wire::Commit{2}));
  const auto started = source_.hear<wire::Started>();
  ASSERT_TRUE(started) << started.error().to_text();
  // And nothing that comes now gets a lane to write to a guest that runs.
  ASSERT_TRUE(source_.say(wire::Abort{2, wire::AbortScope::kAttempt, {}}));
  ASSERT_TRUE(source_.page(0, 2, std::byte{9}));
  ASSERT_TRUE(source_.say(wire::Released{2}));
  EXPECT_EQ(result()->outcome, Outcome::kDone);
  std::lock_guard lock(seen_->mutex);
  EXPECT_EQ(seen_->started, RunState::kPaused);
  EXPECT_EQ(seen_->writes, 1u);
}

TEST_F(Target, ACommitOutOfTurnDoesNotKeepItFromBeingCancelled) {
  open();
  ASSERT_TRUE(source_.say(wire::Commit{1}));
  ASSERT_TRUE(source_.end_round(false));
  ASSERT_TRUE(source_.hear<wire::BarrierAck>());
  EXPECT_TRUE(incoming_->cancel());
  EXPECT_EQ(result()->outcome, Outcome::kCancelled);
}

// With a lease that nobody would want to wait for.
TEST_F(Target, ACancelIsHeardWhileAReadyWaitsForALostSource) {
  options_.lease = std::chrono::hours(1);
  open();
  ASSERT_TRUE(source_.offer(1, kPages));
  source_.close();
  EXPECT_TRUE(incoming_->cancel());
  const auto in = result();
  ASSERT_TRUE(in.has_value());
  EXPECT_NE(in->outcome, Outcome::kDone);
  EXPECT_TRUE(seen_->dropped);
}

// It says something all the time, so no deadline for silence meets it.
TEST_F(Target, AConnectionThatTakesForEverToIntroduceItselfIsEnded) {
  options_.hello_timeout = milliseconds(100);
  incoming_ = std::make_unique<Incoming>(std::make_unique<WatchfulTarget>(seen_), options_, *this);
  thread_ = std::thread([this] { result_.set_value(incoming_->run(*acceptor_)); });
  auto channel = network_.connector()->connect(seconds(5));
  ASSERT_TRUE(channel);
  std::vector<std::byte> head;
  ASSERT_TRUE(wire::encode_record(wire::Ask{}, 0, wire::Hasher(), head));
  std::array<std::byte, 4096> heard;
  std::size_t got = 0;
  for (std::size_t at = 0; at + 1 < head.size() && got == 0; ++at) {
    const iovec byte{&head[at], 1};
    // What it says before it ends the connection may be there already, so a failure is not the end.
    static_cast<void>((*channel)->send({&byte, 1}, seconds(5)));
    const iovec into{heard.data(), heard.size()};
    got = (*channel)->receive({&into, 1}, milliseconds(20)).value_or(0);
  }
  ASSERT_GT(got, wire::kRecordHeaderBytes);
  const auto error = wire::decode<wire::ErrorRecord>(
      std::span<const std::byte>(heard).first(got).subspan(wire::kRecordHeaderBytes));
  ASSERT_TRUE(error);
  EXPECT_EQ(error->error.code, ErrorCode::kTimeout);
}

// An interrupted READY would leave the source waiting, its guest paused, until it gives up.
TEST(EngineReview, ACancelWhileTheStateIsLoadedIsToldToTheSource) {
  RunSpec spec;
  Incoming* incoming = nullptr;
  spec.ready = [&](Outgoing&, Incoming& in) { incoming = &in; };
  spec.target.hook = [&](const char* where) {
    if (std::string_view(where) != "acquire") return;
    EXPECT_TRUE(incoming->cancel());
  };
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.in.outcome, Outcome::kCancelled);
  ASSERT_TRUE(run.out.report.error.has_value());
  EXPECT_EQ(run.out.report.error->code, ErrorCode::kCancelled) << run.text();
  EXPECT_EQ(run.out.report.error->side, Side::kTarget) << run.text();
}

// Its memory is another one's: all of it is dirty, whatever the log says.
TEST(EngineReview, ARegionWhoseBackingChangesArrivesWhole) {
  RunSpec spec;
  auto step = std::make_shared<int>(0);
  spec.source.writes = [step](FakeSource& guest, const char* where) {
    if (std::string_view(where) == "collect" && (*step)++ == 1) {
      guest.memory().set_backing(kLow, Backing::kMemfd);
    }
  };
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
}

class ZeroPages final : public PageSource {
 public:
  Result<std::vector<Region>> regions() override { return std::vector<Region>{kRegion}; }
  Result<ReadOutcome> read(const RegionId&, PageRange, std::span<std::byte> into) override {
    std::fill(into.begin(), into.end(), std::byte{0});
    return ReadOutcome::kRead;
  }
  std::span<const std::byte> mapped(const RegionId&) override { return {}; }
  Status holes(const RegionId&, PageBitmap&) override { return {}; }
};

// A target gives a silent source up, and memory may be zero for longer than that.
TEST(EngineReview, ALaneThatFindsNothingToSendSaysSomethingNowAndThen) {
  auto pair = make_channel_pair();
  ASSERT_TRUE(pair);
  wire::SessionRandom random;
  random.bytes.fill(std::byte{1});
  const wire::Hasher hasher(random, random);
  const wire::PageDigest digest(hasher);
  PageLedger ledger(digest.zero_hash());
  ASSERT_TRUE(ledger.add(0, kRegion));
  ZeroPages pages;
  std::vector<std::unique_ptr<RecordChannel>> lanes;
  lanes.push_back(std::make_unique<RecordChannel>(std::move(pair->first), hasher));
  // Quiet for a quarter of this is too long: every batch is.
  BulkSenders senders(std::move(lanes),
                      {pages, ledger, digest, nullptr, std::chrono::nanoseconds(4)});
  const PageBitmap round_set(std::vector<Region>{kRegion});
  senders.begin_round(round_set);
  PageBatch batch;
  batch.entry = ledger.find(0U);
  batch.count = 2;
  batch.pages[1] = 1;
  ASSERT_TRUE(senders.submit(batch));
  const auto totals = senders.finish_round(0, false);
  ASSERT_TRUE(totals) << totals.error().to_text();
  EXPECT_EQ(totals->carried, 1u);
  EXPECT_EQ(totals->digest_change, 0u);
}

TEST(EngineReview, EmptySectionsWithoutEndAreRefused) {
  session::StateBuffer buffer(1 << 20);
  Status taken;
  std::size_t sections = 0;
  for (; taken && sections < 1'000'000; ++sections) {
    taken = buffer.take(wire::SectionBegin{{"s", 1, false}});
    if (taken) taken = buffer.take(wire::SectionEnd{0});
  }
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code, ErrorCode::kProtocol);
}

}  // namespace
}  // namespace migrate::testing
