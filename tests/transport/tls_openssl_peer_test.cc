// A TlsChannel speaks TLS as any other does: a peer that is OpenSSL on a socket and nothing else
// reads and writes what it does, with new keys, tickets, padding and goodbyes; and what was changed
// on the way is never taken.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <functional>
#include <thread>

#include "base/fd.hpp"
#include "tests/transport/channel_io.hpp"
#include "tests/transport/tls_files.hpp"
#include "transport/tls_channel.hpp"

namespace migrate::test {
namespace {

using testing::HasSubstr;

constexpr std::size_t kMuch = 3'000'000;
// Header, type and tag of a record, RFC 8446, 5.2.
constexpr std::size_t kRecordOverhead = 5 + 1 + 16;

/// Our channel on one end of a pair of sockets, OpenSSL with the same key on the other.
class TlsOpenSslPeer : public testing::TestWithParam<TlsRole> {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    socket_ = Fd(ends[1]);
    auto plain = make_socket_channel(ends[0]);
    ASSERT_TRUE(plain);
    auto context = make_tls_context(GetParam(), files_.psk("key"));
    ASSERT_TRUE(context);
    (*context)->key_update_bytes = 500'000;
    auto channel = TlsChannel::create(*std::move(plain), *context);
    ASSERT_TRUE(channel);
    channel_ = *std::move(channel);
    peer_context_ = *make_tls_context(
        GetParam() == TlsRole::kConnect ? TlsRole::kAccept : TlsRole::kConnect, files_.psk("key"));
    auto ssl = peer_context_->new_connection("");
    ASSERT_TRUE(ssl);
    ssl_ = *std::move(ssl);
    SSL_set_app_data(ssl_.get(), &notes_);
    SSL_set_fd(ssl_.get(), socket_.get());
  }
  void meet(const std::function<void(SSL*)>& set_up = [](SSL*) {}) {
    set_up(ssl_.get());
    std::jthread peer([&] { ASSERT_EQ(SSL_do_handshake(ssl_.get()), 1); });
    const Status done = channel_->handshake(kLong);
    ASSERT_TRUE(done) << done.error().to_text();
  }
  void peer_writes(std::span<const std::byte> bytes, std::size_t piece) {
    while (!bytes.empty()) {
      const std::size_t size = std::min(piece, bytes.size());
      std::size_t written = 0;
      ASSERT_EQ(SSL_write_ex(ssl_.get(), bytes.data(), size, &written), 1);
      bytes = bytes.subspan(written);
    }
  }
  std::vector<std::byte> peer_reads(std::size_t size) {
    std::vector<std::byte> bytes(size);
    for (std::size_t at = 0; at < size;) {
      std::size_t got = 0;
      if (SSL_read_ex(ssl_.get(), bytes.data() + at, size - at, &got) != 1) break;
      at += got;
    }
    return bytes;
  }
  /// Both ways at once, in odd parts.
  void exchange(std::size_t piece) {
    const auto bytes = random_bytes(kMuch);
    {
      std::jthread peer([&] { peer_writes(bytes, piece); });
      std::vector<std::byte> received(kMuch);
      const Status got = receive_all(*channel_, odd_parts(received, 50'000, piece));
      ASSERT_TRUE(got) << got.error().to_text();
      EXPECT_TRUE(received == bytes);
    }
    std::jthread sender(
        [&] { EXPECT_TRUE(channel_->send(odd_parts(bytes, 9'000, piece), kLong)); });
    EXPECT_TRUE(peer_reads(kMuch) == bytes);
  }

  TlsFiles files_;
  Fd socket_;
  std::shared_ptr<TlsContext> peer_context_;
  TlsNotes notes_;
  SslPtr ssl_;
  std::unique_ptr<TlsChannel> channel_;
};

INSTANTIATE_TEST_SUITE_P(Roles, TlsOpenSslPeer,
                         testing::Values(TlsRole::kConnect, TlsRole::kAccept),
                         [](const auto& role) {
                           return role.param == TlsRole::kConnect ? "connects" : "accepts";
                         });

TEST_P(TlsOpenSslPeer, BytesGoBothWaysInOddParts) {
  meet();
  exchange(1 << 20);
  exchange(777);
}

TEST_P(TlsOpenSslPeer, NewKeysOfThePeerAndOnesItAsksFor) {
  meet();
  for (const int kind : {SSL_KEY_UPDATE_NOT_REQUESTED, SSL_KEY_UPDATE_REQUESTED}) {
    ASSERT_EQ(SSL_key_update(ssl_.get(), kind), 1);
    exchange(100'000);
  }
}

TEST_P(TlsOpenSslPeer, PaddingIsNoContent) {
  meet([](SSL* ssl) { SSL_set_block_padding(ssl, 4096); });
  exchange(10'000);
}

/// Only an accepting peer has tickets to give.
class TlsOpenSslTarget : public TlsOpenSslPeer {};
INSTANTIATE_TEST_SUITE_P(Roles, TlsOpenSslTarget, testing::Values(TlsRole::kConnect));

TEST_P(TlsOpenSslTarget, TicketsAreNotMinded) {
  meet();
  SSL_clear_options(ssl_.get(), SSL_OP_NO_TICKET);
  ASSERT_EQ(SSL_new_session_ticket(ssl_.get()), 1);
  exchange(100'000);
}

TEST_P(TlsOpenSslPeer, GoodbyesAreUnderstoodBothWays) {
  meet();
  channel_->send(one_part(random_bytes(10)), kLong).value();
  channel_.reset();
  EXPECT_EQ(peer_reads(10), random_bytes(10));
  char byte = 0;
  EXPECT_EQ(SSL_read(ssl_.get(), &byte, 1), 0);
  EXPECT_EQ(SSL_get_error(ssl_.get(), 0), SSL_ERROR_ZERO_RETURN);
}

TEST_P(TlsOpenSslPeer, APeersGoodbyeIsTheEnd) {
  meet();
  peer_writes(random_bytes(10), 10);
  SSL_shutdown(ssl_.get());
  socket_.reset();
  std::vector<std::byte> buffer(10);
  EXPECT_TRUE(receive_all(*channel_, one_part(buffer)));
  for (int i = 0; i < 2; ++i) EXPECT_EQ(channel_->receive(one_part(buffer), kLong).value(), 0u);
}

TEST_P(TlsOpenSslPeer, WhatIsChangedOnTheWayIsNotTaken) {
  // The header's type, version and length, the content, the tag.
  for (const std::size_t at : {0u, 1u, 2u, 3u, 4u, 5u, 500u, 1020u}) {
    SCOPED_TRACE(at);
    SetUp();
    meet();
    BIO* const out = BIO_new(BIO_s_mem());
    SSL_set0_wbio(ssl_.get(), out);
    peer_writes(random_bytes(1000), 1000);
    char* data = nullptr;
    const auto size = static_cast<std::size_t>(BIO_get_mem_data(out, &data));
    ASSERT_EQ(size, 1000 + kRecordOverhead);
    data[at] = static_cast<char>(data[at] ^ 0x01);
    ASSERT_EQ(::send(socket_.get(), data, size, 0), static_cast<ssize_t>(size));
    ::shutdown(socket_.get(), SHUT_WR);
    std::vector<std::byte> buffer(2000);
    const auto got = channel_->receive(one_part(buffer), kLong);
    ASSERT_FALSE(got);
    EXPECT_FALSE(got.error().remedy.empty()) << got.error().to_text();
    // It is over for good.
    EXPECT_EQ(channel_->receive(one_part(buffer), kLong).error().code, got.error().code);
    EXPECT_NE(got.error().code, ErrorCode::kUnauthorized) << got.error().to_text();
    if (at < 5) continue;
    EXPECT_EQ(got.error().code, ErrorCode::kIntegrity) << got.error().to_text();
  }
}

TEST_P(TlsOpenSslPeer, ARecordThatComesTwiceOrIsLeftOutIsNotTaken) {
  for (const bool twice : {true, false}) {
    SetUp();
    meet();
    BIO* const out = BIO_new(BIO_s_mem());
    SSL_set0_wbio(ssl_.get(), out);
    peer_writes(random_bytes(300), 100);
    char* data = nullptr;
    const auto size = static_cast<std::size_t>(BIO_get_mem_data(out, &data));
    const std::size_t record = size / 3;
    std::string bytes(data, size);
    bytes = twice ? bytes.substr(0, record) + bytes
                  : bytes.substr(0, record) + bytes.substr(2 * record);
    ASSERT_EQ(::send(socket_.get(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
    std::vector<std::byte> buffer(1000);
    EXPECT_EQ(channel_->receive(one_part(buffer), kLong).value(), 100u) << "the good one";
    EXPECT_EQ(channel_->receive(one_part(buffer), kLong).error().code, ErrorCode::kIntegrity);
  }
}

TEST_P(TlsOpenSslPeer, ARecordThatCannotBeOpenedIsSaidInWords) {
  meet();
  const std::string broken = std::string("\x17\x03\x03\x00\x20", 5) + std::string(32, 'x');
  channel_->send(one_part(random_bytes(1)), kLong).value();
  peer_reads(1);
  ASSERT_EQ(::send(socket_.get(), broken.data(), broken.size(), 0),
            static_cast<ssize_t>(broken.size()));
  std::vector<std::byte> buffer(10);
  const auto got = channel_->receive(one_part(buffer), kLong);
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code, ErrorCode::kIntegrity);
  EXPECT_THAT(got.error().message, HasSubstr("were changed"));
}

}  // namespace
}  // namespace migrate::test
