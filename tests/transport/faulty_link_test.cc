// The faulty link itself: its faults happen at their byte, and not one byte earlier or later.
#include "tests/support/faulty_link.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <thread>

#include "tests/support/test_clock.hpp"

namespace migrate::test {
namespace {

using namespace std::chrono_literals;

// Long enough never to pass in a test that works.
constexpr auto kLong = 30s;
constexpr auto kShort = 5ms;

struct Lane {
  std::unique_ptr<Channel> source;
  std::unique_ptr<Channel> target;
};

Lane open_lane(InProcessNetwork& network) {
  auto acceptor = network.acceptor();
  auto source = network.connector()->connect(kLong);
  auto target = acceptor->accept(kLong);
  MIGRATE_CHECK(source.has_value() && target.has_value());
  return {*std::move(source), *std::move(target)};
}

std::vector<std::byte> numbered(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 256);
  return bytes;
}

Status send_bytes(Channel& channel, std::span<const std::byte> bytes,
                  std::chrono::nanoseconds idle_max = kLong) {
  const iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  return channel.send(std::span(&part, 1), idle_max);
}

struct Received {
  std::vector<std::byte> bytes;
  std::optional<Error> error;  ///< None: the peer closed.
};

Received receive_to_end(Channel& channel, std::chrono::nanoseconds idle_max = kLong) {
  Received received;
  std::byte buffer[512];
  const iovec part{buffer, sizeof buffer};
  while (true) {
    const auto count = channel.receive(std::span(&part, 1), idle_max);
    if (!count) {
      received.error = count.error();
      return received;
    }
    if (*count == 0) return received;
    received.bytes.insert(received.bytes.end(), buffer, buffer + *count);
  }
}

std::vector<std::byte> first(const std::vector<std::byte>& bytes, std::size_t count) {
  return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count)};
}

TEST(FaultyLink, WithoutFaultsEveryByteArrivesAndIsCounted) {
  LinkPlan plan;
  plan.seed = 3;
  plan.chunk_bytes_max = 777;
  plan.window_bytes = 5000;
  InProcessNetwork network(plan);
  Lane lane = open_lane(network);
  const auto bytes = numbered(100'000);
  std::jthread sender([&] {
    EXPECT_TRUE(send_bytes(*lane.source, bytes));
    lane.source.reset();
  });
  const Received received = receive_to_end(*lane.target);
  EXPECT_FALSE(received.error);
  EXPECT_TRUE(received.bytes == bytes);
  ASSERT_EQ(network.bytes().size(), 1u);
  EXPECT_EQ(network.bytes()[0].to_target, bytes.size());
  EXPECT_EQ(network.bytes()[0].to_source, 0u);
}

TEST(FaultyLink, ACutDeliversExactlyTheBytesBeforeIt) {
  const auto bytes = numbered(40);
  for (std::size_t k = 0; k <= bytes.size(); ++k) {
    LinkPlan plan;
    plan.faults = {Fault::cut(0, Direction::kToTarget, k, InFlight::kDelivered)};
    SCOPED_TRACE(plan.to_text());
    InProcessNetwork network(plan);
    Lane lane = open_lane(network);
    const Status sent = send_bytes(*lane.source, bytes);
    EXPECT_EQ(sent.has_value(), k == bytes.size());
    const Received received = receive_to_end(*lane.target);
    EXPECT_EQ(received.bytes, first(bytes, k));
    ASSERT_TRUE(received.error);
    EXPECT_EQ(received.error->code, ErrorCode::kLinkLost);
    EXPECT_EQ(send_bytes(*lane.source, bytes).error().code, ErrorCode::kLinkLost);
    EXPECT_EQ(receive_to_end(*lane.source).error->code, ErrorCode::kLinkLost);
    EXPECT_EQ(network.faults_fired(), 1u);
    EXPECT_EQ(network.bytes()[0].to_target, k);
  }
}

TEST(FaultyLink, ACutThatLosesTakesWhatIsInFlightBothWays) {
  LinkPlan plan;
  plan.faults = {Fault::cut(0, Direction::kToTarget, 10, InFlight::kLost)};
  InProcessNetwork network(plan);
  Lane lane = open_lane(network);
  ASSERT_TRUE(send_bytes(*lane.target, numbered(5)));
  ASSERT_TRUE(send_bytes(*lane.source, numbered(10)));
  EXPECT_TRUE(receive_to_end(*lane.target).bytes.empty());
  EXPECT_TRUE(receive_to_end(*lane.source).bytes.empty());
}

TEST(FaultyLink, ACutWakesAReceiverThatWaits) {
  InProcessNetwork network;
  Lane lane = open_lane(network);
  std::jthread receiver(
      [&] { EXPECT_EQ(receive_to_end(*lane.target).error->code, ErrorCode::kLinkLost); });
  network.cut_all();
}

TEST(FaultyLink, ScopeDecidesWhetherOtherLanesSurvive) {
  for (const Scope scope : {Scope::kLane, Scope::kLink}) {
    LinkPlan plan;
    plan.faults = {Fault::cut(1, Direction::kToSource, 0, InFlight::kLost, scope)};
    SCOPED_TRACE(plan.to_text());
    InProcessNetwork network(plan);
    Lane control = open_lane(network);
    Lane bulk = open_lane(network);
    EXPECT_FALSE(send_bytes(*bulk.target, numbered(1)));
    EXPECT_EQ(send_bytes(*control.source, numbered(1)).has_value(), scope == Scope::kLane);
  }
}

TEST(FaultyLink, AFlipChangesOneBitOfOneByte) {
  const auto bytes = numbered(20);
  for (std::size_t k = 0; k < bytes.size(); ++k) {
    LinkPlan plan;
    plan.faults = {Fault::flip(0, Direction::kToTarget, k, static_cast<unsigned>(k % 8))};
    SCOPED_TRACE(plan.to_text());
    InProcessNetwork network(plan);
    Lane lane = open_lane(network);
    ASSERT_TRUE(send_bytes(*lane.source, bytes));
    lane.source.reset();
    auto expected = bytes;
    expected[k] ^= std::byte{1} << (k % 8);
    EXPECT_EQ(receive_to_end(*lane.target).bytes, expected);
  }
}

TEST(FaultyLink, AStalledLaneMovesNothingAndDeadlinesTell) {
  LinkPlan plan;
  plan.faults = {Fault::stall(0, Direction::kToTarget, 10)};
  InProcessNetwork network(plan);
  Lane lane = open_lane(network);
  ASSERT_TRUE(send_bytes(*lane.target, numbered(3)));
  EXPECT_EQ(send_bytes(*lane.source, numbered(20), kShort).error().code, ErrorCode::kTimeout);
  // Nor does the end of a peer show.
  const Received at_source = receive_to_end(*lane.source, kShort);
  EXPECT_TRUE(at_source.bytes.empty());
  EXPECT_EQ(at_source.error->code, ErrorCode::kTimeout);
  lane.source.reset();
  EXPECT_EQ(receive_to_end(*lane.target, kShort).error->code, ErrorCode::kTimeout);
}

TEST(FaultyLink, LateBytesArriveLaterAndInOrder) {
  LinkPlan plan;
  plan.faults = {Fault::late(0, Direction::kToTarget, 4, 20ms)};
  InProcessNetwork network(plan);
  Lane lane = open_lane(network);
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(send_bytes(*lane.source, numbered(8)));
  lane.source.reset();
  EXPECT_EQ(receive_to_end(*lane.target).bytes, numbered(8));
  EXPECT_GE(std::chrono::steady_clock::now() - start, 20ms);
}

TEST(FaultyLink, ACallIsMadeAtItsByteByTheSender) {
  std::uint64_t seen = 0;
  InProcessNetwork* running = nullptr;
  LinkPlan plan;
  plan.faults = {
      Fault::when(0, Direction::kToTarget, 7, [&] { seen = running->bytes()[0].to_target; })};
  InProcessNetwork network(plan);
  running = &network;
  Lane lane = open_lane(network);
  ASSERT_TRUE(send_bytes(*lane.source, numbered(6)));
  EXPECT_EQ(seen, 0u);
  ASSERT_TRUE(send_bytes(*lane.source, numbered(6)));
  EXPECT_EQ(seen, 7u);
}

TEST(FaultyLink, AFullWindowHoldsTheSenderBack) {
  LinkPlan plan;
  plan.window_bytes = 100;
  InProcessNetwork network(plan);
  Lane lane = open_lane(network);
  EXPECT_EQ(send_bytes(*lane.source, numbered(101), kShort).error().code, ErrorCode::kTimeout);
  EXPECT_EQ(lane.source->unsent_bytes(), 100u);
}

TEST(FaultyLink, InterruptAndShutdownEndCalls) {
  InProcessNetwork network;
  Lane lane = open_lane(network);
  std::jthread receiver(
      [&] { EXPECT_EQ(receive_to_end(*lane.target).error->code, ErrorCode::kCancelled); });
  lane.target->interrupt();
  receiver.join();
  lane.target->resume_after_interrupt();
  ASSERT_TRUE(send_bytes(*lane.source, numbered(3)));
  lane.source->shutdown();
  EXPECT_EQ(send_bytes(*lane.source, numbered(3)).error().code, ErrorCode::kLinkLost);
  const Received received = receive_to_end(*lane.target);
  EXPECT_EQ(received.bytes, numbered(3));
  EXPECT_FALSE(received.error);
  EXPECT_EQ(send_bytes(*lane.target, numbered(1)).error().code, ErrorCode::kLinkLost);
}

TEST(FaultyLink, ConnectsAreRefusedWithoutAnAcceptorAndWhenTold) {
  LinkPlan plan;
  plan.faults = {Fault::cut(0, Direction::kToTarget, 0)};
  plan.refuse_after_cut = 2;
  InProcessNetwork network(plan);
  auto connector = network.connector();
  EXPECT_EQ(connector->connect(kLong).error().code, ErrorCode::kConnectFailed);
  auto acceptor = network.acceptor();
  auto lane = connector->connect(kLong);
  ASSERT_TRUE(lane);
  EXPECT_FALSE(send_bytes(**lane, numbered(1)));
  EXPECT_FALSE(connector->connect(kLong));
  EXPECT_FALSE(connector->connect(kLong));
  EXPECT_TRUE(connector->connect(kLong));
  network.refuse_connections();
  EXPECT_FALSE(connector->connect(kLong));
  network.allow_connections();
  EXPECT_TRUE(connector->connect(kLong));
  EXPECT_TRUE(network.wait_for_refused(4, 0s));
  EXPECT_FALSE(network.wait_for_refused(5, 0s));
  EXPECT_TRUE(network.wait_for_lanes(3, 0s));
}

TEST(FaultyLink, AcceptWaitsIsInterruptedAndTimesOut) {
  InProcessNetwork network;
  auto acceptor = network.acceptor();
  EXPECT_EQ(acceptor->accept(kShort).error().code, ErrorCode::kTimeout);
  std::jthread waiter(
      [&] { EXPECT_EQ(acceptor->accept(kLong).error().code, ErrorCode::kCancelled); });
  acceptor->interrupt();
}

TEST(FaultyLink, ConnectionsNobodyAcceptsDieWithTheAcceptor) {
  InProcessNetwork network;
  auto acceptor = network.acceptor();
  auto channel = network.connector()->connect(kLong);
  ASSERT_TRUE(channel);
  acceptor.reset();
  EXPECT_EQ(receive_to_end(**channel).error->code, ErrorCode::kLinkLost);
}

TEST(SeededPlan, IsRepeatableAndNamesABytesThatIsReached) {
  const LaneBytes clean[] = {{100, 50}, {0, 0}, {5000, 0}};
  std::string all;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const LinkPlan plan = seeded_plan(seed, clean);
    EXPECT_EQ(plan.to_text(), seeded_plan(seed, clean).to_text());
    ASSERT_EQ(plan.faults.size(), 1u);
    const Fault& fault = plan.faults[0];
    ASSERT_LT(fault.lane, std::size(clean));
    EXPECT_LT(fault.at_byte, clean[fault.lane].in(fault.direction));
    all += plan.to_text() + "\n";
  }
  for (const char* kind : {"cut lane 0", "cut lane 2", "stall lane 2", "flip lane 2", "to source",
                           "rest lost", "rest delivered", "every lane"}) {
    EXPECT_THAT(all, testing::HasSubstr(kind));
  }
}

TEST(TestClock, MovesOnlyWhenTurned) {
  TestClock clock;
  const auto start = clock.now();
  const auto boot = clock.boottime();
  clock.advance(5s);
  clock.sleep_host(1h);
  EXPECT_EQ(clock.now() - start, 5s);
  EXPECT_EQ(clock.boottime() - boot, 1h + 5s);
}

}  // namespace
}  // namespace migrate::test
