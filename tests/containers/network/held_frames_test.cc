// What comes in on an interface waits, in order, within its bound, and nothing of it is left.
#include "adapters/containers/network/held_frames.hpp"

#include <gmock/gmock.h>

#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <thread>

#include "tests/containers/network/pair_bed.hpp"

namespace migrate::containers {
namespace {

class HeldFramesTest : public PairTest {
 protected:
  void SetUp() override {
    PairTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const LinkPeer found = peer();
    const Fd there = space(guest_);
    const Fd here = space(host_);
    auto held = HeldFrames::open(there.get(), found.index);
    ASSERT_TRUE(held) << held.error().to_text();
    held_ = *std::move(held);
    auto port = PortDelivery::open(here.get(), found.port);
    ASSERT_TRUE(port) << port.error().to_text();
    port_.emplace(*std::move(port));
    untouched_ = filters(guest_, "eth0");
    receiver_ = open_receiver();
  }

  std::unique_ptr<HeldFrames> held_;
  std::optional<PortDelivery> port_;
  std::string untouched_;
  Fd receiver_;
};

TEST_F(HeldFramesTest, WhatComesWaitsAndLeavesInItsOrder) {
  send_numbers(0, 10);
  EXPECT_EQ(numbers_at(receiver_, 10), numbers(0, 10)) << "nothing is held yet";
  ASSERT_TRUE(held_->set(Gate::kClosed));
  EXPECT_TRUE(held_->holds());
  send_numbers(100, 500);
  EXPECT_EQ(numbers_at(receiver_, 0), numbers(0, 0)) << "it was let in";
  ASSERT_TRUE(held_->set(Gate::kOpen));
  EXPECT_EQ(held_->pass_on(*port_), 500u);
  EXPECT_EQ(numbers_at(receiver_, 500), numbers(100, 500));
  send_numbers(1000, 10);
  EXPECT_EQ(numbers_at(receiver_, 10), numbers(1000, 10));
  EXPECT_EQ(held_->take(), std::nullopt) << "what was let in is not held as well";
  EXPECT_EQ(held_->dropped(), 0u);
  EXPECT_EQ(filters(guest_, "eth0"), untouched_) << "nothing is left behind";
}

TEST_F(HeldFramesTest, WhatIsTakenIsWholeAndGoesInAtAnotherPlaceAsIfItHadComeThere) {
  ASSERT_TRUE(held_->set(Gate::kClosed));
  // One does not fit in a frame: it comes in parts.
  send_numbers(7, 1, 4000);
  send_numbers(8, 3);
  std::vector<FrameBytes> frames;
  while (auto frame = held_->take()) {
    EXPECT_TRUE(frame->ours);
    EXPECT_LE(frame->bytes.size(), 1514u);
    frames.push_back(std::move(frame->bytes));
  }
  EXPECT_EQ(frames.size(), 6u);
  ASSERT_TRUE(held_->set(Gate::kOpen));
  for (const FrameBytes& frame : frames) EXPECT_TRUE(port_->send(frame));
  EXPECT_EQ(numbers_at(receiver_, 4), numbers(7, 4));
}

TEST_F(HeldFramesTest, ABoundIsKeptAndWhatIsBeyondItIsCounted) {
  ASSERT_TRUE(held_->set(Gate::kClosed));
  constexpr int kMany = 20'000;
  send_numbers(0, kMany, 1400);
  int count = 0;
  std::vector<int> first;
  while (auto frame = held_->take()) {
    int number = 0;
    std::memcpy(&number, frame->bytes.data() + 42, sizeof(number));
    EXPECT_EQ(number, count) << "the oldest are kept";
    ++count;
  }
  EXPECT_GT(count, 1000);
  EXPECT_LT(count, HeldFrames::kBytesMax / 1400);
  EXPECT_EQ(held_->dropped(), static_cast<std::uint64_t>(kMany - count));
}

TEST_F(HeldFramesTest, WhatIsDiscardedIsGone) {
  ASSERT_TRUE(held_->set(Gate::kClosed));
  send_numbers(0, 10);
  held_->discard();
  send_numbers(10, 3);
  ASSERT_TRUE(held_->set(Gate::kOpen));
  EXPECT_EQ(held_->pass_on(*port_), 3u);
  EXPECT_EQ(numbers_at(receiver_, 3), numbers(10, 3));
}

TEST_F(HeldFramesTest, AGateThatShutsAndOpensBesideAFloodLosesNothing) {
  constexpr int kMany = 30'000;
  // What is not read in time must not be lost there.
  const int room = 256 << 20;
  ASSERT_EQ(::setsockopt(receiver_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room), 0);
  std::thread flood([&] { send_numbers(0, kMany); });
  std::vector<bool> seen(kMany);
  std::size_t there = 0;
  const auto note = [&](const std::vector<int>& some) {
    for (const int number : some) {
      there += seen[number] ? 0 : 1;
      seen[number] = true;
    }
  };
  for (int turn = 0; turn < 20; ++turn) {
    ASSERT_TRUE(held_->set(Gate::kClosed));
    note(numbers_at(receiver_, 0));
    ASSERT_TRUE(held_->set(Gate::kOpen));
    held_->pass_on(*port_);
    note(numbers_at(receiver_, 0));
  }
  flood.join();
  EXPECT_EQ(held_->dropped(), 0u);
  // One at the edge may have come twice, so their count says nothing.
  expect_soon(
      [&] {
        note(numbers_at(receiver_, 0));
        return there == kMany;
      },
      "all to come");
}

TEST_F(HeldFramesTest, HandshakesWaitAndTheRestGetsIn) {
  guest_.must("echo 1 > /proc/sys/net/ipv4/tcp_syncookies");
  ASSERT_TRUE(held_->set(Gate::kNoHandshakes));
  send_numbers(0, 5);
  EXPECT_EQ(numbers_at(receiver_, 5), numbers(0, 5));
  EXPECT_EQ(held_->take(), std::nullopt);
  // A port without a listener answers by a reset at once, if it hears of it.
  std::thread client([&] { host_.sh("timeout 60 bash -c 'echo > /dev/tcp/10.79.0.2/9'"); });
  std::optional<HeldFrames::Frame> syn;
  expect_soon([&] { return (syn = held_->take()).has_value(); },
              "a segment that opens a connection");
  ASSERT_GE(syn->bytes.size(), 54u);
  EXPECT_EQ(std::to_integer<int>(syn->bytes[47]), 2) << "SYN";
  ASSERT_TRUE(held_->set(Gate::kClosed)) << "from one to the other";
  send_numbers(5, 1);
  ASSERT_TRUE(held_->set(Gate::kOpen));
  EXPECT_TRUE(port_->send(syn->bytes));
  client.join();
  held_->pass_on(*port_);
  EXPECT_EQ(numbers_at(receiver_, 1), numbers(5, 1));
}

TEST_F(HeldFramesTest, AGateStaysShutWithoutItsOwnerUntilItIsUndone) {
  const Fd there = space(guest_);
  auto gate = LinkGate::open(there.get(), peer().index);
  ASSERT_TRUE(gate);
  ASSERT_TRUE(gate->set(Gate::kClosed));
  const GateUndo undo = gate->undo();
  // The socket by which it is undone is all that is left of it.
  const Fd socket(::dup(undo.socket));
  gate = make_error(ErrorCode::kNotFound, "its owner has ended");
  send_numbers(0, 5);
  EXPECT_EQ(numbers_at(receiver_, 0), numbers(0, 0));
  ASSERT_GT(::send(socket.get(), undo.message.data(), undo.message.size(), 0), 0);
  send_numbers(5, 5);
  EXPECT_EQ(numbers_at(receiver_, 5), numbers(5, 5));
}

TEST_F(HeldFramesTest, FiltersOfOthersStay) {
  guest_.must("tc qdisc add dev eth0 clsact");
  guest_.must("tc filter add dev eth0 ingress pref 7 bpf da bytecode '1,6 0 0 4294967295'");
  const std::string before = filters(guest_, "eth0");
  ASSERT_NE(before, untouched_);
  ASSERT_TRUE(held_->set(Gate::kClosed));
  EXPECT_NE(filters(guest_, "eth0"), before);
  ASSERT_TRUE(held_->set(Gate::kOpen));
  EXPECT_EQ(filters(guest_, "eth0"), before);
}

TEST_F(HeldFramesTest, ALinkThatLeadsElsewhereIsRefused) {
  host_.run([&] {
    const Fd there = space(guest_);
    const Fd here = space(host_);
    EXPECT_EQ(find_link_peer("no-such-link", there.get()).error().code, ErrorCode::kNotFound);
    EXPECT_EQ(find_link_peer("lo", there.get()).error().code, ErrorCode::kUnsupported);
    EXPECT_EQ(find_link_peer("port", here.get()).error().code, ErrorCode::kUnsupported);
  });
  EXPECT_EQ(peer().name, "eth0");
  EXPECT_TRUE(peer().only);
  guest_.must("ip link add name more type bridge && ip link set more up");
  EXPECT_FALSE(peer().only);
}

}  // namespace
}  // namespace migrate::containers
