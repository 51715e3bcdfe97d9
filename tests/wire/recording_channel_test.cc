#include "tests/wire/recording_channel.hpp"

#include <gtest/gtest.h>

#include <array>
#include <string_view>

namespace migrate::wire::testing {
namespace {

using namespace std::chrono_literals;

/// Takes what is sent and gives back what it was told to, in small pieces.
class ScriptedChannel final : public Channel {
 public:
  explicit ScriptedChannel(std::string_view answers) : answers_(answers) {}

  Status send(std::span<const iovec> parts, std::chrono::nanoseconds) override {
    for (const iovec& part : parts) {
      sent_.append(static_cast<const char*>(part.iov_base), part.iov_len);
    }
    return {};
  }
  Result<std::size_t> receive(std::span<const iovec> parts, std::chrono::nanoseconds) override {
    std::size_t received = 0;
    for (const iovec& part : parts) {
      const std::size_t take = std::min({part.iov_len, answers_.size(), 3 - received});
      std::memcpy(part.iov_base, answers_.data(), take);
      answers_.erase(0, take);
      received += take;
    }
    return received;
  }
  void interrupt() noexcept override {}
  void resume_after_interrupt() noexcept override {}
  void shutdown() noexcept override {}
  std::size_t unsent_bytes() const override { return 0; }
  bool has_room(std::size_t) const override { return true; }
  std::string peer() const override { return "script"; }
  std::string peer_identity() const override { return "psk:script"; }

 private:
  std::string answers_;
  std::string sent_;
};

/// Both ends of a link, each end of it a ScriptedChannel.
class ScriptedEnds final : public Connector, public Acceptor {
 public:
  Result<std::unique_ptr<Channel>> connect(std::chrono::nanoseconds) override {
    return std::unique_ptr<Channel>(std::make_unique<ScriptedChannel>("x"));
  }
  Result<std::unique_ptr<Channel>> accept(std::chrono::nanoseconds) override {
    return std::unique_ptr<Channel>(std::make_unique<ScriptedChannel>("y"));
  }
  void set_session(std::string_view /*session*/) override {}
  void interrupt() noexcept override { ++interrupts_; }
  void resume_after_interrupt() noexcept override {}
  std::string peer() const override { return "peer"; }
  std::string address() const override { return "address"; }
  int interrupts() const { return interrupts_; }

 private:
  int interrupts_ = 0;
};

std::string text_of(const CaptureFrame& frame) {
  return {reinterpret_cast<const char*>(frame.bytes.data()), frame.bytes.size()};
}

TEST(RecordingChannelTest, RecordsBothDirectionsInOrderAndOnlyWhatWasReceived) {
  Capture capture;
  RecordingChannel first(std::make_unique<ScriptedChannel>("12345"), capture, Direction::kToTarget);
  RecordingChannel second(std::make_unique<ScriptedChannel>(""), capture, Direction::kToSource);
  std::string hello = "hel";
  std::string rest = "lo";
  const std::array<iovec, 2> parts = {iovec{hello.data(), 3}, iovec{rest.data(), 2}};
  ASSERT_TRUE(first.send(parts, 1s));
  std::array<char, 2> a{};
  std::array<char, 5> b{};
  const std::array<iovec, 2> into = {iovec{a.data(), 2}, iovec{b.data(), 5}};
  EXPECT_EQ(*first.receive(into, 1s), 3u);
  EXPECT_EQ(*first.receive(into, 1s), 2u);
  EXPECT_EQ(*first.receive(into, 1s), 0u);
  ASSERT_TRUE(second.send(std::span(parts).first(1), 1s));

  const auto frames = parse_capture(capture.bytes());
  ASSERT_TRUE(frames);
  ASSERT_EQ(frames->size(), 4u);
  const std::array<std::string_view, 4> texts = {"hello", "123", "45", "hel"};
  for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(text_of((*frames)[i]), texts[i]);
  EXPECT_EQ((*frames)[0].direction, Direction::kToTarget);
  EXPECT_EQ((*frames)[1].direction, Direction::kToSource);
  EXPECT_EQ((*frames)[2].connection, 0);
  EXPECT_EQ((*frames)[3].connection, 1);
  EXPECT_EQ((*frames)[3].direction, Direction::kToSource);
}

TEST(RecordingChannelTest, ConnectorAndAcceptorNumberTheirConnections) {
  Capture capture;
  ScriptedEnds ends;
  RecordingConnector connector(ends, capture);
  RecordingAcceptor acceptor(ends, capture);
  EXPECT_EQ(connector.peer(), "peer");
  EXPECT_EQ(acceptor.address(), "address");
  connector.interrupt();
  acceptor.interrupt();
  EXPECT_EQ(ends.interrupts(), 2);

  auto first = connector.connect(1s);
  auto second = acceptor.accept(1s);
  ASSERT_TRUE(first && second);
  std::string word = "w";
  const iovec part{word.data(), 1};
  ASSERT_TRUE((*second)->send({&part, 1}, 1s));
  ASSERT_TRUE((*first)->send({&part, 1}, 1s));
  const auto frames = parse_capture(capture.bytes());
  ASSERT_TRUE(frames);
  ASSERT_EQ(frames->size(), 2u);
  EXPECT_EQ((*frames)[0].connection, 1);
  EXPECT_EQ((*frames)[0].direction, Direction::kToSource);
  EXPECT_EQ((*frames)[1].connection, 0);
  EXPECT_EQ((*frames)[1].direction, Direction::kToTarget);
}

TEST(CaptureTest, CutFileIsRefused) {
  Capture capture;
  const std::array<std::byte, 4> bytes{};
  capture.add(0, Direction::kToTarget, bytes);
  const std::vector<std::byte> file = capture.bytes();
  EXPECT_TRUE(parse_capture(file));
  for (std::size_t size = 0; size < file.size(); ++size) {
    if (size == kCaptureMagic.size()) continue;  // An empty capture.
    EXPECT_FALSE(parse_capture(std::span(file).first(size))) << size;
  }
}

}  // namespace
}  // namespace migrate::wire::testing
