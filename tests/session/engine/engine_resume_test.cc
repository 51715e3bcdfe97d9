// The engine on a link that is lost in the rounds and comes back.
#include <gtest/gtest.h>

#include <filesystem>
#include <future>
#include <random>
#include <thread>

#include "memory/page_ledger.hpp"
#include "precopy/rounds.hpp"
#include "tests/session/engine/engine_run.hpp"
#include "tests/session/engine/scripted_source.hpp"

namespace migrate::testing {
namespace {

using std::chrono::milliseconds;
using test::Direction;
using test::Fault;
using test::InFlight;
using test::LinkPlan;
using test::Scope;

constexpr int kShards = 8;

const RegionId kIdle{0, 9, 0};
const Region kIdleRegion{kIdle, {{1u << 24}, 10000}, Backing::kAnonymous};

/// Touches so many pages after each of the first rounds that their forecast of 4 us a page is
/// beyond max_downtime, and another round follows. They stay zero and cost nothing on the wire.
void keep_rounds_going(FakeSource& guest, int collects) {
  constexpr std::uint64_t kPages[] = {0, 10000, 8750, 7750};
  if (collects > 3) return;
  for (std::uint64_t i = 0; i < kPages[collects]; ++i) {
    guest.write_zeros(kIdle, kIdleRegion.range.first + i);
  }
}

void expect_rounds(RunSpec& spec) {
  // Far beyond what a slow machine makes of the fixed costs.
  spec.outgoing.max_downtime = milliseconds(25);
  spec.outgoing.verify = VerifyMode::kFull;
  spec.outgoing.reconnect = milliseconds(20'000);
  // Cuts are at bytes of a run without faults: on a slow machine none of them may be of an ALIVE.
  spec.outgoing.peer_timeout = spec.incoming.peer_timeout = milliseconds(20'000);
}

// Small enough to break everywhere: 12 pages, some rounds. Pages are written, cleared and written
// again, at places that both the old and the new content of which a cut may have kept from the
// target.
RunSpec tiny() {
  RunSpec spec;
  spec.regions = {{kLow, {{0}, 12}, Backing::kAnonymous}, kIdleRegion};
  spec.fill = [](FakeSource& guest) {
    for (std::uint64_t page = 0; page < 12; page += 2) guest.write(kLow, {page}, 7);
  };
  auto step = std::make_shared<int>(0);
  spec.source.writes = [step](FakeSource& guest, const char* where) {
    if (std::string_view(where) != "collect") return;
    keep_rounds_going(guest, *step);
    switch ((*step)++) {
      case 1:  // Data to zero, zero to data, and the same again: looks unchanged.
        guest.write_zeros(kLow, {4});
        guest.write(kLow, {3}, 5);
        guest.write(kLow, {6}, 7);
        break;
      case 2:
        guest.write(kLow, {4}, 7);
        guest.write_zeros(kLow, {3});
        break;
      case 3:
        guest.write(kLow, {4}, 9);
        break;
      default:
        break;
    }
  };
  spec.source.state_bytes = spec.target.state_bytes = 40;
  expect_rounds(spec);
  return spec;
}

void expect_done(Migration& run) {
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_EQ(run.out.report.integrity.full, "equal") << run.text();
}

/// Bytes of each channel at the beginning and the end of the rounds, with `plan`. A cut at `begin`
/// is one of the set-up's end.
struct Span {
  std::vector<test::LaneBytes> begin, end;
};
Span span_of(Migration& run) {
  Span span{run.bytes_at["precopy"], run.bytes_at["switchover"]};
  for (test::LaneBytes& lane : span.begin) {
    ++lane.to_target;
    ++lane.to_source;
  }
  return span;
}
Span rounds_of(LinkPlan plan = {}) {
  RunSpec spec = tiny();
  spec.plan = std::move(plan);
  Migration run(std::move(spec));
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  return span_of(run);
}

void expect_survives(LinkPlan plan, std::uint32_t reconnects) {
  RunSpec spec = tiny();
  spec.plan = std::move(plan);
  Migration run(std::move(spec));
  expect_done(run);
  EXPECT_GE(run.out.report.reconnects.count, reconnects) << run.text();
  EXPECT_EQ(run.network->faults_fired(), run.spec.plan.faults.size()) << run.text();
}

class ResumeAfterACut : public ::testing::TestWithParam<int> {
 protected:
  /// This shard's part of [begin, end), every byte of it up to `edges` from either end.
  static std::vector<std::uint64_t> bytes(std::uint64_t begin, std::uint64_t end,
                                          std::uint64_t edges = 200) {
    std::vector<std::uint64_t> all;
    for (std::uint64_t at = begin; at < end;) {
      const bool edge = at < begin + edges || at + edges > end;
      const bool mine = all.size() % kShards == static_cast<std::size_t>(GetParam());
      if (mine && at % kCutStride == 0) mine_.push_back(at);
      all.push_back(at);
      at += edge ? 1 : std::min<std::uint64_t>(end - edges - at + 1, 397);
    }
    return std::exchange(mine_, {});
  }
  static inline std::vector<std::uint64_t> mine_;
};
INSTANTIATE_TEST_SUITE_P(Engine, ResumeAfterACut, ::testing::Range(0, kShards));

TEST_P(ResumeAfterACut, AtEveryByteOfTheControlLane) {
  const Span clean = rounds_of();
  for (const Direction direction : {Direction::kToTarget, Direction::kToSource}) {
    for (const std::uint64_t at : bytes(clean.begin[0].in(direction), clean.end[0].in(direction))) {
      // Each record has each kind of cut at a fourth of its bytes.
      LinkPlan plan;
      plan.faults = {Fault::cut(0, direction, at,
                                at % 2 == 0 ? InFlight::kLost : InFlight::kDelivered,
                                at % 4 < 2 ? Scope::kLane : Scope::kLink)};
      expect_survives(std::move(plan), 1);
      if (HasFailure()) return;
    }
  }
}

TEST_P(ResumeAfterACut, OfTheBulkLanes) {
  const Span clean = rounds_of();
  // Which lane carries what differs from run to run: at least its barriers.
  for (std::size_t lane = 1; lane <= 2; ++lane) {
    for (const std::uint64_t at :
         bytes(clean.begin[lane].to_target, clean.begin[lane].to_target + 4 * 45)) {
      LinkPlan plan;
      plan.faults = {Fault::cut(lane, Direction::kToTarget, at,
                                at % 2 == 0 ? InFlight::kLost : InFlight::kDelivered,
                                at % 4 < 2 ? Scope::kLane : Scope::kLink)};
      expect_survives(std::move(plan), 1);
      if (HasFailure()) return;
    }
  }
}

/// With one lane it is known what goes where.
TEST_P(ResumeAfterACut, WithinThePages) {
  RunSpec one = tiny();
  one.outgoing.lanes = 1;
  Migration clean(std::move(one));
  const auto begin = span_of(clean).begin[1].to_target;
  const auto end = span_of(clean).end[1].to_target;
  for (const std::uint64_t at : bytes(begin, end, 60)) {
    RunSpec spec = tiny();
    spec.outgoing.lanes = 1;
    spec.target.mapped = at % 3 != 0;
    spec.source.style = at % 5 < 2 ? TrackerStyle::kRearmInCollect : TrackerStyle::kManual;
    spec.plan.faults = {Fault::cut(1, Direction::kToTarget, at,
                                   at % 2 == 0 ? InFlight::kLost : InFlight::kDelivered)};
    Migration run(std::move(spec));
    expect_done(run);
    EXPECT_GE(run.out.report.reconnects.count, 1u) << run.text();
    if (HasFailure()) return;
  }
}

/// The new control lane is connection 3, its bulk lanes 4 and 5.
TEST_P(ResumeAfterACut, AgainAtEveryByteOfComingBack) {
  LinkPlan first;
  const Span clean = rounds_of();
  const std::uint64_t middle = (clean.begin[0].to_target + clean.end[0].to_target) / 2;
  first.faults = {Fault::cut(0, Direction::kToTarget, middle, InFlight::kLost, Scope::kLink)};
  const Span once = rounds_of(first);
  ASSERT_GE(once.end.size(), 6u);
  for (const std::size_t lane : {3u, 4u}) {
    for (const Direction direction : {Direction::kToTarget, Direction::kToSource}) {
      // Of lanes what comes back is JOIN and JOINED; their pages may be any.
      const std::uint64_t end = lane == 3 ? once.end[3].in(direction)
                                          : (direction == Direction::kToTarget ? 75 + 45 : 26);
      for (const std::uint64_t at : bytes(0, end)) {
        if (at % 3 != 0 && at > 2) continue;  // Each waits 100 ms before it connects once more.
        LinkPlan plan = first;
        plan.faults.push_back(Fault::cut(lane, direction, at,
                                         at % 2 == 0 ? InFlight::kLost : InFlight::kDelivered,
                                         at % 4 < 2 ? Scope::kLane : Scope::kLink));
        expect_survives(std::move(plan), 1);
        if (HasFailure()) return;
      }
    }
  }
}

TEST(EngineResume, ManyCutsWhileTheGuestWrites) {
  const auto begin = rounds_of().begin;
  constexpr std::uint64_t kThirdRegion = 29;  // Bytes in HELLO, which tiny() does not have.
  for (unsigned seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(seed);
    RunSpec spec;
    expect_rounds(spec);
    spec.regions = {{kLow, {{0}, 64}, Backing::kAnonymous},
                    {kHigh, {{1u << 20}, 100}, Backing::kAnonymous},
                    kIdleRegion};
    spec.source.style = seed % 2 == 0 ? TrackerStyle::kManual : TrackerStyle::kRearmInCollect;
    spec.source.mapped = seed % 3 != 0;
    spec.target.mapped = seed % 5 != 0;
    auto random = std::make_shared<std::mt19937>(seed);
    auto left = std::make_shared<int>(400);
    auto step = std::make_shared<int>(0);
    spec.source.writes = [random, left, step](FakeSource& guest, const char* where) {
      if (std::string_view(where) == "save") return;
      if (std::string_view(where) == "collect") keep_rounds_going(guest, (*step)++);
      for (int i = 0; i < 30 && *left > 0; ++i, --*left) {
        const RegionId region = (*random)() % 2 == 0 ? kLow : kHigh;
        const GuestPage first{region == kLow ? 0u : 1u << 20};
        guest.write(region, first + (*random)() % 64,
                    static_cast<std::uint8_t>((*random)() % 3 == 0 ? 0 : (*random)() % 4));
      }
    };
    // Three connections at a time: the control lane of the first four links, or a bulk lane. Cuts
    // of early bytes meet the coming back itself.
    for (std::size_t link = 0; link < 4; ++link) {
      const std::size_t lane = link * 3 + (*random)() % 3;
      // HELLO, WELCOME and JOIN are over by then; so is RESUME, more often than not.
      const bool control = lane % 3 == 0;
      const std::uint64_t at = link == 0 ? begin[lane].to_target + kThirdRegion + (*random)() % 20
                                         : (*random)() % (control ? 300 : 60'000);
      spec.plan.faults.push_back(
          Fault::cut(lane, Direction::kToTarget, at,
                     (*random)() % 2 == 0 ? InFlight::kLost : InFlight::kDelivered));
    }
    Migration run(std::move(spec));
    expect_one_owner(run);
    // A cut that is planned for a byte of the switchover ends the migration as ever.
    const bool in_rounds = run.out.outcome == Outcome::kDone;
    if (!in_rounds) {
      EXPECT_TRUE(run.bytes_at.contains("switchover")) << run.text();
    }
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(EngineResume, RegionsComeAndGoAcrossACut) {
  const auto make = [] {
    RunSpec spec = tiny();
    spec.outgoing.lanes = 1;
    spec.regions.push_back({kHigh, {{1u << 20}, 20}, Backing::kAnonymous});
    auto step = std::make_shared<int>(0);
    spec.source.writes = [step](FakeSource& guest, const char* where) {
      const Region extra{{0, 3, 0}, {{5000}, 70}, Backing::kAnonymous};
      if (std::string_view(where) != "collect") return;
      const int now = (*step)++;
      keep_rounds_going(guest, now);
      if (now == 1) {
        guest.write(kHigh, {(1u << 20) + 3}, 6);
        guest.memory().add(extra);
        guest.write(extra.id, {5003}, 8);
      }
      if (now == 2) guest.memory().remove(kHigh);
    };
    return spec;
  };
  Migration clean(make());
  expect_done(clean);
  for (const std::size_t lane : {0u, 1u}) {
    for (const Direction direction : {Direction::kToTarget, Direction::kToSource}) {
      if (lane == 1 && direction == Direction::kToSource) continue;
      const auto begin = span_of(clean).begin[lane].in(direction);
      const auto end = span_of(clean).end[lane].in(direction);
      // Every record's header and body; ResumeAfterACut has every byte.
      for (std::uint64_t at = begin; at < end; at += lane == 0 ? 7 : 1 + (end - begin) / 60) {
        RunSpec spec = make();
        spec.plan.faults = {
            Fault::cut(lane, direction, at, at % 2 == 0 ? InFlight::kLost : InFlight::kDelivered)};
        Migration run(std::move(spec));
        expect_done(run);
        EXPECT_EQ(run.out.report.reconnects.count, 1u) << run.text();
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

/// The first byte of the control lane's first BARRIER_ACK.
std::uint64_t first_ack() { return rounds_of().begin[0].to_source; }

TEST(EngineResume, OnlyTheLostAcknowledgementIsMadeUpFor) {
  RunSpec spec = tiny();
  spec.plan.faults = {
      Fault::cut(0, Direction::kToSource, first_ack(), InFlight::kLost, Scope::kLink)};
  Migration run(std::move(spec));
  expect_done(run);
  EXPECT_EQ(run.out.report.reconnects.count, 1u);
  // Round 0 is not sent again.
  EXPECT_EQ(run.out.report.pages.raw, Migration(tiny()).out.report.pages.raw) << run.text();
}

TEST(EngineResume, AStalledLinkIsGivenUpAndOpenedAgain) {
  const auto begin = rounds_of().begin;
  for (const std::size_t lane : {0u, 1u}) {
    RunSpec spec = tiny();
    spec.outgoing.lanes = 1;
    spec.outgoing.peer_timeout = spec.incoming.peer_timeout = milliseconds(150);
    spec.plan.faults = {Fault::stall(lane, Direction::kToTarget, begin[lane].to_target)};
    Migration run(std::move(spec));
    expect_done(run);
    EXPECT_GE(run.out.report.reconnects.count, 1u) << run.text();
  }
}

TEST(EngineResume, WhenTheTimeIsOverTheGuestRunsOnAndTheTargetIsGone) {
  RunSpec spec = tiny();
  spec.outgoing.reconnect = milliseconds(300);
  spec.plan.refuse_after_cut = 1000;
  spec.plan.faults = {
      Fault::cut(0, Direction::kToSource, first_ack(), InFlight::kLost, Scope::kLink)};
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
  EXPECT_EQ(run.out.report.error->code, ErrorCode::kLinkLost) << run.text();
  EXPECT_NE(run.out.report.error->message.find("connecting again"), std::string::npos);
  EXPECT_EQ(run.in.outcome, Outcome::kFailed);
  EXPECT_TRUE(run.target().discarded());
  EXPECT_GE(run.network->refused(), 2u);
  EXPECT_EQ(run.source().pauses(), 1);  // The rehearsal's.
}

TEST(EngineResume, ACancelEndsTheWaitAtOnce) {
  RunSpec spec = tiny();
  spec.plan.refuse_after_cut = 100'000;
  spec.outgoing.reconnect = std::chrono::hours(20);
  spec.plan.faults = {
      Fault::cut(0, Direction::kToSource, first_ack(), InFlight::kLost, Scope::kLink)};
  Outgoing* outgoing = nullptr;
  Incoming* incoming = nullptr;
  spec.ready = [&](Outgoing& out, Incoming& in) {
    outgoing = &out;
    incoming = &in;
  };
  std::thread canceller;
  spec.on_source_event = [&](const Event& event) {
    if (event.name != "reconnecting") return;
    canceller = std::thread([&] {
      EXPECT_TRUE(outgoing->cancel());
      EXPECT_TRUE(incoming->cancel());
    });
  };
  Migration run(std::move(spec));
  ASSERT_TRUE(canceller.joinable()) << run.text();
  canceller.join();
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kCancelled) << run.text();
  // It may not have noticed yet that the link is lost: then it hears of both at the same time.
  ASSERT_TRUE(run.in.report.error);
  const ErrorCode code = run.in.report.error->code;
  EXPECT_TRUE(code == ErrorCode::kCancelled || code == ErrorCode::kLinkLost) << run.text();
}

TEST(EngineResume, WithoutTimeForItALostLinkEndsTheSession) {
  RunSpec spec = tiny();
  spec.outgoing.reconnect = milliseconds(0);
  spec.plan.faults = {Fault::cut(0, Direction::kToSource, first_ack())};
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
  EXPECT_EQ(run.out.report.reconnects.count, 0u);
}

// The target alone, and a source that says what a test tells it to.
class ResumingTarget : public ::testing::Test, private Incoming::Host {
 protected:
  const Region kRegion{kLow, {{0}, 100}, Backing::kAnonymous};

  ~ResumingTarget() override {
    source_.close();
    if (thread_.joinable()) {
      incoming_->cancel();
      thread_.join();
    }
    std::filesystem::remove_all(options_.runtime_dir);
  }

  /// Round 0 acknowledged, page 5 sent in round 1, the link lost.
  void lose_link() {
    std::string path = ::testing::TempDir() + "/resume-XXXXXX";
    ASSERT_NE(mkdtemp(path.data()), nullptr);
    options_.runtime_dir = path;
    FakeTarget::Script script;
    script.mapped = false;
    script.hook = [this, left = 2](const char* where) mutable {
      if (std::string_view(where) == "written" && --left == 0) both_came_.set_value();
    };
    incoming_ = std::make_unique<Incoming>(std::make_unique<FakeTarget>(world_, std::move(script)),
                                           options_, static_cast<Incoming::Host&>(*this));
    thread_ = std::thread([this] { result_.set_value(incoming_->run(*acceptor_)); });
    ASSERT_TRUE(source_.open());
    ASSERT_TRUE(source_.say(wire::ResumeTerms{10'000}));
    ASSERT_TRUE(source_.page(0, 3, std::byte{1}));
    ASSERT_TRUE(source_.end_round(false));
    ASSERT_TRUE(source_.hear<wire::BarrierAck>());
    ASSERT_TRUE(source_.page(0, 5, std::byte{2}));
    ASSERT_EQ(both_came_.get_future().wait_for(std::chrono::seconds(20)),
              std::future_status::ready);
    source_.close();
  }
  IncomingResult result() {
    auto future = result_.get_future();
    EXPECT_EQ(future.wait_for(std::chrono::seconds(20)), std::future_status::ready);
    thread_.join();
    return future.get();
  }

  Status on_described(const GuestDescription&) override { return {}; }
  Status on_ready() override { return {}; }
  void on_started() override {}
  void on_memory(Memory, const std::string&) override {}

  World world_;
  IncomingOptions options_;
  test::InProcessNetwork network_;
  std::unique_ptr<Acceptor> acceptor_ = network_.acceptor();
  ScriptedSource source_{network_.connector(), {kRegion}};
  std::unique_ptr<Incoming> incoming_;
  std::promise<void> both_came_;  // Pages 3 and 5.
  std::promise<IncomingResult> result_;
  std::thread thread_;
};

TEST_F(ResumingTarget, AStrangerIsRefusedAndDisturbsNothing) {
  lose_link();
  wire::JoinSecret guessed = source_.secret();
  guessed.bytes[31] ^= std::byte{1};
  const auto unproven = source_.resume(source_.session(), guessed, 1);
  ASSERT_FALSE(unproven);
  EXPECT_EQ(unproven.error().code, ErrorCode::kUnauthorized) << unproven.error().to_text();
  wire::SessionId other = source_.session();
  other.bytes[0] ^= std::byte{1};
  const auto unknown = source_.resume(other, source_.secret(), 1);
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, ErrorCode::kNotFound) << unknown.error().to_text();

  const auto resumed = source_.resume(source_.session(), source_.secret(), 1);
  ASSERT_TRUE(resumed) << resumed.error().to_text();
  EXPECT_EQ(resumed->round, 1u);
  EXPECT_EQ(resumed->digest, source_.digest());
  // Pages 5 and, needlessly, 64.
  ASSERT_TRUE(source_.say(wire::Void{wire::RegionHandle{0}, 0, {1u << 5, 1}}));
  ASSERT_TRUE(source_.say(wire::VoidEnd{2, source_.digest()}));
  const auto voided = source_.hear<wire::Voided>();
  ASSERT_TRUE(voided) << voided.error().to_text();
  EXPECT_EQ(voided->digest, source_.digest());
}

TEST_F(ResumingTarget, WrongVoidPagesEndTheSession) {
  lose_link();
  ASSERT_TRUE(source_.resume(source_.session(), source_.secret(), 1));
  // Page 3 was acknowledged: with it void, the digest is another one.
  ASSERT_TRUE(source_.say(wire::Void{wire::RegionHandle{0}, 0, {1u << 5 | 1u << 3}}));
  ASSERT_TRUE(source_.say(wire::VoidEnd{2, source_.digest()}));
  EXPECT_EQ(source_.hear_end().code, ErrorCode::kIntegrity);
  EXPECT_EQ(result().outcome, Outcome::kFailed);
}

TEST_F(ResumingTarget, APageThatCameAndIsNotVoidEndsTheSession) {
  lose_link();
  ASSERT_TRUE(source_.resume(source_.session(), source_.secret(), 1));
  ASSERT_TRUE(source_.say(wire::Void{wire::RegionHandle{0}, 0, {1u << 4}}));
  ASSERT_TRUE(source_.say(wire::VoidEnd{1, source_.digest()}));
  EXPECT_EQ(source_.hear_end().code, ErrorCode::kProtocol);
  EXPECT_EQ(result().outcome, Outcome::kFailed);
}

TEST_F(ResumingTarget, VoidPagesBeyondTheRegionEndTheSession) {
  lose_link();
  ASSERT_TRUE(source_.resume(source_.session(), source_.secret(), 1));
  ASSERT_TRUE(source_.say(wire::Void{wire::RegionHandle{0}, 64, {std::uint64_t{1} << 36}}));
  EXPECT_EQ(source_.hear_end().code, ErrorCode::kProtocol);
  EXPECT_EQ(result().outcome, Outcome::kFailed);
}

TEST_F(ResumingTarget, AnotherRoundEndsTheSession) {
  lose_link();
  static_cast<void>(source_.resume(source_.session(), source_.secret(), 3));
  EXPECT_EQ(result().report.error->code, ErrorCode::kProtocol);
}

// What the source makes of a target's RESUMED.
TEST(RoundsAfterALostLink, OnlyWhatTheTargetCanHaveIsBelieved) {
  World world;
  FakeSource guest(world, {{kLow, {{0}, 12}, Backing::kAnonymous}}, {});
  for (std::uint64_t page = 0; page < 12; page += 2) guest.write(kLow, {page}, 7);
  wire::SessionRandom random;
  random.bytes.fill(std::byte{3});
  const wire::Hasher hasher(random, random);
  const wire::PageDigest digest(hasher);
  PageLedger ledger(digest.zero_hash());
  ASSERT_TRUE(ledger.add(0, {kLow, {{0}, 12}, Backing::kAnonymous}));
  auto control = make_channel_pair();
  auto bulk = make_channel_pair();
  ASSERT_TRUE(control && bulk);
  RecordChannel source(std::move(control->first), hasher);
  std::vector<std::unique_ptr<RecordChannel>> lanes;
  lanes.push_back(std::make_unique<RecordChannel>(std::move(bulk->first), hasher));
  BulkSenders senders(std::move(lanes),
                      {guest.pages(), ledger, digest, nullptr, std::chrono::seconds(5)});
  precopy::Rounds rounds({guest.pages(), guest.tracker(), ledger, digest, &senders, &source,
                          system_clock(), std::chrono::seconds(5),
                          [](std::uint64_t) { return Status(); }});
  ASSERT_TRUE(rounds.start(false));
  std::thread target([peer = std::move(control->second), &hasher]() mutable {
    RecordChannel channel(std::move(peer), hasher);
    EXPECT_TRUE(channel.expect<wire::Barrier>(std::chrono::seconds(5)));
  });
  const auto lost = rounds.run();
  target.join();
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().code, ErrorCode::kLinkLost);

  const std::uint64_t sent = rounds.digest();
  EXPECT_EQ(rounds.reconcile(2, sent).error().code, ErrorCode::kProtocol);
  EXPECT_EQ(rounds.reconcile(1, sent + 1).error().code, ErrorCode::kIntegrity);
  EXPECT_EQ(rounds.reconcile(0, sent).error().code, ErrorCode::kIntegrity);
  EXPECT_EQ(rounds.round(), 0u);
  const auto closed = rounds.reconcile(1, sent);
  ASSERT_TRUE(closed);
  ASSERT_TRUE(closed->has_value());
  EXPECT_EQ((*closed)->bulk.raw, 6u);
  EXPECT_EQ(rounds.round(), 1u);
  EXPECT_TRUE(rounds.void_set().empty());
}

}  // namespace
}  // namespace migrate::testing
