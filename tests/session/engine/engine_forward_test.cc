// Packets that come to a guest at its source after its pause: they go after it, or back to it, and
// none gets lost without being counted.
#include <gtest/gtest.h>

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

TEST(Forwarding, AFloodDoesNotHoldUpTheStart) {
  RunSpec spec;
  spec.outgoing.forward = std::chrono::milliseconds(50);
  spec.target.cards = true;
  spec.target.frames_max = 1'000'000;
  int given = 0;
  spec.source.packets = [&given] {
    ++given;
    return std::vector<GuestFrame>{frame(9)};
  };
  Migration run(std::move(spec));
  expect_one_owner(run);
  ASSERT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_EQ(run.in.report.forwarded.frames, static_cast<std::uint64_t>(given));
  EXPECT_EQ(run.out.report.forwarded.frames, static_cast<std::uint64_t>(given));
}

}  // namespace
}  // namespace migrate::testing
