// A channel secured by TLS keeps the promises of Channel.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "tests/transport/channel_io.hpp"
#include "tests/transport/tls_files.hpp"
#include "transport/record_channel.hpp"
#include "transport/tls_context.hpp"

namespace migrate::test {
namespace {

using namespace std::chrono_literals;

struct Kind {
  const char* name;
  bool psk;
  std::uint64_t key_update_bytes;
  friend void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }
};

class TlsChannel : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    const bool psk = GetParam().psk;
    const TlsOptions source = psk ? files_.psk("key") : files_.host("source");
    const TlsOptions target = psk ? source : files_.host("target");
    auto connecting = make_tls_context(TlsRole::kConnect, source);
    auto accepting = make_tls_context(TlsRole::kAccept, target);
    ASSERT_TRUE(connecting) << connecting.error().to_text();
    ASSERT_TRUE(accepting) << accepting.error().to_text();
    (*connecting)->key_update_bytes = GetParam().key_update_bytes;
    (*accepting)->key_update_bytes = GetParam().key_update_bytes;
    auto plain = make_tcp_acceptor("127.0.0.1", "0");
    ASSERT_TRUE(plain);
    const std::string address = (*plain)->address();
    const auto acceptor = make_tls_acceptor(*std::move(plain), *accepting);
    const auto connector = make_tls_connector(
        make_tcp_connector("127.0.0.1", address.substr(address.rfind(':') + 1)), *connecting);
    std::jthread greeter([&] {
      auto far = acceptor->accept(kLong);
      ASSERT_TRUE(far);
      far_ = *std::move(far);
      std::vector<std::byte> hello(5);
      const Status received = receive_all(*far_, one_part(hello));
      ASSERT_TRUE(received) << received.error().to_text();
    });
    auto near = connector->connect(kLong);
    ASSERT_TRUE(near) << near.error().to_text();
    near_ = *std::move(near);
    ASSERT_TRUE(send_bytes(*near_, random_bytes(5)));
  }

  TlsFiles files_;
  std::unique_ptr<Channel> near_;
  std::unique_ptr<Channel> far_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, TlsChannel,
                         testing::Values(Kind{"certificates", false, kKeyUpdateBytes},
                                         Kind{"psk", true, kKeyUpdateBytes},
                                         Kind{"fresh_keys", false, 100'000}),
                         [](const auto& kind) { return kind.param.name; });

TEST_P(TlsChannel, TellsOfTheLinkBelow) {
  EXPECT_GT(near_->link_state().round_trip.count(), 0);
  EXPECT_GT(far_->link_state().round_trip_min.count(), 0);
}

TEST_P(TlsChannel, OddPartsArriveByteForByte) {
  for (const std::size_t most : {std::size_t{7}, std::size_t{4096}, std::size_t{300'000}}) {
    SCOPED_TRACE(most);
    const auto bytes = random_bytes(most == 7 ? 100'000 : 8'000'000, most);
    std::vector<std::byte> received(bytes.size());
    std::jthread sender([&] {
      const Status sent = near_->send(odd_parts(bytes, most, 1), kLong);
      EXPECT_TRUE(sent) << sent.error().to_text();
    });
    const Status status = receive_all(*far_, odd_parts(received, most * 2, 2));
    ASSERT_TRUE(status) << status.error().to_text();
    EXPECT_TRUE(received == bytes);
  }
}

TEST_P(TlsChannel, RecordsThatNobodyWaitsForArriveInOrderThoughNobodyReadAtFirst) {
  wire::SessionRandom random;
  random.bytes.fill(std::byte{1});
  const wire::Hasher hasher(random, random);
  RecordChannel near(std::move(near_), hasher);
  RecordChannel far(std::move(far_), hasher);
  near.set_detached(true);
  constexpr std::size_t kChunk = 1 << 20;
  for (std::size_t i = 0; i < 16; ++i) {
    ASSERT_TRUE(near.send_section_data(random_bytes(kChunk, i + 1), kLong));
  }
  near.set_detached(false);
  std::jthread later([&] { EXPECT_TRUE(near.send(wire::Commit{1}, kLong)); });
  for (std::size_t i = 0; i < 16; ++i) {
    const auto record = far.receive(kLong);
    ASSERT_TRUE(record) << record.error().to_text();
    const auto sent = random_bytes(kChunk, i + 1);
    EXPECT_TRUE(std::equal(record->body.begin(), record->body.end(), sent.begin(), sent.end()));
  }
  EXPECT_TRUE(far.expect<wire::Commit>(kLong));
}

TEST_P(TlsChannel, NothingToSendIsSent) {
  EXPECT_TRUE(near_->send({}, kShort));
  EXPECT_TRUE(near_->send(std::vector<iovec>(5), kShort));
}

TEST_P(TlsChannel, MuchGoesInBothDirectionsAtOnce) {
  const auto bytes = random_bytes(32'000'000);
  const auto exchange = [&](Channel& channel) {
    std::jthread sender([&] { EXPECT_TRUE(send_bytes(channel, bytes)); });
    std::vector<std::byte> received(bytes.size());
    EXPECT_TRUE(receive_all(channel, one_part(received)));
    EXPECT_TRUE(received == bytes);
  };
  std::jthread far([&] { exchange(*far_); });
  exchange(*near_);
}

TEST_P(TlsChannel, ReceiveGivesWhatIsThere) {
  ASSERT_TRUE(send_bytes(*near_, random_bytes(10)));
  std::vector<std::byte> buffer(100);
  const auto count = far_->receive(one_part(buffer), kLong);
  ASSERT_TRUE(count);
  EXPECT_EQ(*count, 10u);
}

TEST_P(TlsChannel, AStalledPeerIsATimeoutOnBothWays) {
  std::vector<std::byte> buffer(10);
  const auto received = near_->receive(one_part(buffer), kShort);
  ASSERT_FALSE(received);
  EXPECT_EQ(received.error().code, ErrorCode::kTimeout);
  // After a timeout receiving may go on.
  ASSERT_TRUE(send_bytes(*far_, random_bytes(10)));
  EXPECT_TRUE(receive_all(*near_, one_part(buffer)));
  EXPECT_EQ(buffer, random_bytes(10));

  const Status sent = near_->send(many_parts(64), kShort);
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::kTimeout);
  EXPECT_FALSE(sent.error().remedy.empty());
  // Part of a record may have left: nothing can follow.
  EXPECT_FALSE(send_bytes(*near_, buffer));
}

TEST_P(TlsChannel, InterruptEndsAWaitingReceiveAndReceivingMayGoOn) {
  std::vector<std::byte> buffer(3);
  std::jthread receiver([&] {
    const auto count = near_->receive(one_part(buffer), kLong);
    ASSERT_FALSE(count);
    EXPECT_EQ(count.error().code, ErrorCode::kCancelled);
  });
  near_->interrupt();
  receiver.join();
  ASSERT_TRUE(send_bytes(*far_, random_bytes(3)));
  EXPECT_EQ(near_->receive(one_part(buffer), kLong).error().code, ErrorCode::kCancelled);
  EXPECT_EQ(send_bytes(*near_, buffer).error().code, ErrorCode::kCancelled);
  near_->resume_after_interrupt();
  EXPECT_TRUE(receive_all(*near_, one_part(buffer)));
  EXPECT_EQ(buffer, random_bytes(3));
}

TEST_P(TlsChannel, AnInterruptHoldsWhereDecryptedBytesWait) {
  ASSERT_TRUE(send_bytes(*far_, random_bytes(100)));
  std::vector<std::byte> buffer(1);
  ASSERT_TRUE(receive_all(*near_, one_part(buffer)));
  near_->interrupt();
  EXPECT_EQ(near_->receive(one_part(buffer), kLong).error().code, ErrorCode::kCancelled);
}

TEST_P(TlsChannel, InterruptEndsAWaitingSend) {
  std::jthread sender(
      [&] { EXPECT_EQ(near_->send(many_parts(64), kLong).error().code, ErrorCode::kCancelled); });
  near_->interrupt();
}

TEST_P(TlsChannel, ShutdownWithinARecordEndsWaitingCallsAndLaterOnes) {
  std::jthread sender(
      [&] { EXPECT_EQ(near_->send(many_parts(64), kLong).error().code, ErrorCode::kLinkLost); });
  std::jthread receiver([&] { EXPECT_EQ(read_to_end(*near_), ErrorCode::kLinkLost); });
  // Once the sockets' buffers are full the sender waits.
  std::vector<std::byte> buffer(1);
  ASSERT_TRUE(receive_all(*far_, one_part(buffer)));
  near_->shutdown();
  sender.join();
  receiver.join();
  EXPECT_EQ(send_bytes(*near_, random_bytes(1)).error().code, ErrorCode::kLinkLost);
  EXPECT_EQ(read_to_end(*near_), ErrorCode::kLinkLost);
  // The peer can tell a stream that was cut short from one that ended.
  EXPECT_EQ(read_to_end(*far_), ErrorCode::kLinkLost);
}

TEST_P(TlsChannel, AClosedPeerIsTheEndForReceiversAndALossForSenders) {
  ASSERT_TRUE(send_bytes(*far_, random_bytes(1000)));
  far_.reset();
  EXPECT_EQ(read_to_end(*near_), std::nullopt);
  const Status sent = near_->send(many_parts(64), kLong);
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::kLinkLost);
  EXPECT_FALSE(sent.error().remedy.empty());
}

TEST_P(TlsChannel, APeerThatDiesWithUnreadBytesEndsAWaitingSend) {
  std::jthread sender(
      [&] { EXPECT_EQ(near_->send(many_parts(64), kLong).error().code, ErrorCode::kLinkLost); });
  far_.reset();
}

TEST_P(TlsChannel, KnowsWhoThePeerIs) {
  if (GetParam().psk) {
    EXPECT_THAT(near_->peer_identity(), testing::MatchesRegex("psk:[0-9a-f]{16}"));
    EXPECT_EQ(near_->peer_identity(), far_->peer_identity());
  } else {
    EXPECT_THAT(near_->peer_identity(), testing::MatchesRegex("sha256:[0-9a-f]{64}"));
    EXPECT_THAT(far_->peer_identity(), testing::MatchesRegex("sha256:[0-9a-f]{64}"));
    EXPECT_NE(near_->peer_identity(), far_->peer_identity());
  }
}

}  // namespace
}  // namespace migrate::test
