// Packets that come to a guest at its source after its pause: they go after it, or back to it, and
// none gets lost without being counted.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "tests/session/engine/alone_target.hpp"
#include "tests/session/engine/engine_run.hpp"

namespace migrate::testing {
namespace {

GuestFrame frame(std::uint8_t number) {
  return {number % 2u, std::vector<std::byte>(60, static_cast<std::byte>(number))};
}

std::vector<int> numbers(const std::vector<GuestFrame>& frames) {
  std::vector<int> all;
  for (const GuestFrame& one : frames) {
    EXPECT_EQ(one.bytes.size(), 60u);
    EXPECT_EQ(one.card, std::to_integer<unsigned>(one.bytes[0]) % 2u);
    all.push_back(std::to_integer<int>(one.bytes[0]));
  }
  return all;
}

/// Two frames wait at the first look, one at each of the next two.
RunSpec with_packets(int* looks) {
  RunSpec spec;
  spec.outgoing.forward = std::chrono::milliseconds(100);
  spec.target.cards = true;
  spec.source.packets = [looks] {
    std::vector<GuestFrame> frames;
    const int look = (*looks)++;
    if (look == 0) frames = {frame(1), frame(2)};
    if (look == 1 || look == 2) frames = {frame(static_cast<std::uint8_t>(look + 2))};
    return frames;
  };
  return spec;
}

TEST(Forwarding, WhatComesToTheSourceReachesTheGuestInItsOrder) {
  int looks = 0;
  Migration run(with_packets(&looks));
  expect_one_owner(run);
  ASSERT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_EQ(numbers(run.target().delivered()), (std::vector<int>{1, 2, 3, 4}));
  EXPECT_TRUE(run.source().given_back().empty());
  for (const Report* report : {&run.out.report, &run.in.report}) {
    EXPECT_EQ(report->forwarded.frames, 4u);
    EXPECT_EQ(report->forwarded.bytes, 240u);
    EXPECT_EQ(report->forwarded.dropped, 0u);
  }
}

TEST(Forwarding, IsOnlyForWhoAsksForIt) {
  int looks = 0;
  RunSpec spec = with_packets(&looks);
  spec.outgoing.forward = std::chrono::milliseconds(0);
  Migration run(std::move(spec));
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_EQ(looks, 0) << "the frames are left where they are";
  EXPECT_TRUE(run.target().delivered().empty());
}

TEST(Forwarding, NothingIsSentToATargetThatCannotTakeIt) {
  int looks = 0;
  RunSpec spec = with_packets(&looks);
  spec.target.cards = false;
  Migration run(std::move(spec));
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_EQ(looks, 0);
}

TEST(Forwarding, AGuestThatStaysAfterAllGetsItsFramesBack) {
  int looks = 0;
  RunSpec spec = with_packets(&looks);
  spec.target.fail_start = ErrorCode::kGuest;
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
  ASSERT_GE(looks, 1);
  const std::vector<int> back = numbers(run.source().given_back());
  ASSERT_GE(back.size(), 2u);
  EXPECT_EQ(std::vector<int>(back.begin(), back.begin() + 2), (std::vector<int>{1, 2}));
  EXPECT_TRUE(run.target().delivered().empty());
  EXPECT_EQ(run.out.report.forwarded.frames, 0u);
}

// The target's card has a broadcast, too.
TEST(Forwarding, WhatCameToAllIsNotSentButGoesBackInItsPlace) {
  for (const bool stays : {false, true}) {
    RunSpec spec;
    spec.outgoing.forward = std::chrono::milliseconds(100);
    spec.target.cards = true;
    if (stays) spec.target.fail_start = ErrorCode::kGuest;
    bool looked = false;
    spec.source.packets = [&looked] {
      std::vector<GuestFrame> frames;
      if (std::exchange(looked, true)) return frames;
      for (std::uint8_t number = 1; number <= 4; ++number) frames.push_back(frame(number));
      frames[1].follows = frames[3].follows = false;
      return frames;
    };
    Migration run(std::move(spec));
    expect_one_owner(run);
    if (stays) {
      EXPECT_EQ(numbers(run.source().given_back()), (std::vector<int>{1, 2, 3, 4}));
    } else {
      EXPECT_EQ(numbers(run.target().delivered()), (std::vector<int>{1, 3}));
      EXPECT_EQ(run.out.report.forwarded.frames, 2u);
    }
    EXPECT_EQ(run.out.report.forwarded.dropped, 0u);
  }
}

TEST(Forwarding, AGuestComesBackThoughItsFramesCannot) {
  int looks = 0;
  RunSpec spec = with_packets(&looks);
  spec.target.fail_start = ErrorCode::kGuest;
  spec.source.fail_give_back = true;
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
  EXPECT_TRUE(run.source().running());
}

TEST(Forwarding, NoMemoryForFramesEndsForwardingAndNothingElse) {
  RunSpec spec;
  spec.outgoing.forward = std::chrono::milliseconds(100);
  spec.target.cards = true;
  spec.source.packets = []() -> std::vector<GuestFrame> { throw std::bad_alloc(); };
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
}

TEST(Forwarding, SaysWhyNothingIsForwarded) {
  int looks = 0;
  const auto events_of = [](RunSpec spec) { return Migration(std::move(spec)).source_events; };
  const auto says_so = [&](RunSpec spec) {
    const auto events = events_of(std::move(spec));
    return std::ranges::count_if(events, [](const std::string& event) {
             return event.starts_with("forward-unavailable: nothing is forwarded: ");
           }) == 1;
  };
  RunSpec no_taker = with_packets(&looks);
  no_taker.target.cards = false;
  EXPECT_TRUE(says_so(std::move(no_taker)));
  RunSpec no_cards = with_packets(&looks);
  no_cards.source.packets = {};
  EXPECT_TRUE(says_so(std::move(no_cards)));
  EXPECT_FALSE(says_so(with_packets(&looks)));
  RunSpec unasked = with_packets(&looks);
  unasked.outgoing.forward = std::chrono::milliseconds(0);
  unasked.target.cards = false;
  EXPECT_FALSE(says_so(std::move(unasked)));
}

TEST(Forwarding, WhatTheGuestHasNoRoomForIsCounted) {
  int looks = 0;
  RunSpec spec = with_packets(&looks);
  spec.target.frames_max = 3;
  Migration run(std::move(spec));
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_EQ(run.target().delivered().size(), 3u);
  EXPECT_EQ(run.in.report.forwarded.frames, 3u);
  EXPECT_EQ(run.in.report.forwarded.dropped, 1u);
}

class TargetWithCards : public AloneTarget {
 protected:
  static FakeTarget::Script script() {
    FakeTarget::Script script;
    script.cards = true;
    script.state_bytes = 0;
    return script;
  }
  TargetWithCards() : AloneTarget(script()) {}
};

TEST_F(TargetWithCards, TakesNoFramesOnAConnectionThatWasOpenedToAsk) {
  const wire::Forward forward{0, std::vector<std::byte>(60)};
  ASSERT_TRUE(source_.open());
  ASSERT_TRUE(source_.offer(1, 100));
  ASSERT_TRUE(source_.say(wire::Commit{1}));
  ASSERT_TRUE(source_.hear<wire::Started>());
  ASSERT_TRUE(source_.say(forward));
  // The first is read before the question that follows it elsewhere.
  ASSERT_TRUE(source_.say(wire::Ping{1, 0}));
  ASSERT_TRUE(source_.hear<wire::Pong>());
  ASSERT_TRUE(source_.ask());
  ASSERT_TRUE(source_.hear<wire::Started>());
  ASSERT_TRUE(source_.say(forward));
  ASSERT_TRUE(source_.say(forward));
  ASSERT_TRUE(source_.ask());
  ASSERT_TRUE(source_.hear<wire::Started>());
  ASSERT_TRUE(source_.say(wire::Released{1}));
  const IncomingResult in = result_.get_future().get();
  EXPECT_EQ(in.outcome, Outcome::kDone);
  EXPECT_EQ(in.report.forwarded.frames, 1u);
}

TEST(Forwarding, AFloodDoesNotHoldUpTheStart) {
  constexpr std::size_t kFrameBytes = 2000;
  constexpr std::uint64_t kUnreadBytes = 128 << 10;
  RunSpec spec;
  spec.outgoing.forward = std::chrono::milliseconds(50);
  spec.target.cards = true;
  spec.target.frames_max = 1'000'000;
  spec.plan.window_bytes = 1 << 20;
  std::atomic<int> looks = 0;
  spec.source.packets = [&looks] {
    ++looks;
    return std::vector<GuestFrame>(64, GuestFrame{0, std::vector<std::byte>(kFrameBytes)});
  };
  Migration* run_now = nullptr;
  spec.watch_run = [&](Migration& run) { run_now = &run; };
  std::uint64_t before = 0;
  std::uint64_t unread = 0;
  spec.target.hook = [&](const char* where) {
    const auto sent = [&] { return run_now->network->bytes()[0].to_target; };
    if (std::string_view(where) == "acquire") before = sent();
    if (std::string_view(where) != "start") return;
    // What the first two looks gave could all have left when there is a third.
    while (looks < 3) std::this_thread::yield();
    unread = sent() - before;
  };
  Migration run(std::move(spec));
  expect_one_owner(run);
  ASSERT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_GT(unread, kUnreadBytes / 2);
  EXPECT_LE(unread, kUnreadBytes + 4096) << "with COMMIT and the records' heads";
  EXPECT_GT(run.out.report.forwarded.frames, 128u) << "the rest comes once it runs";
  EXPECT_EQ(run.in.report.forwarded.frames, run.out.report.forwarded.frames);
}

}  // namespace
}  // namespace migrate::testing
