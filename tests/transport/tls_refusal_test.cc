// Who is not trusted does not get in, and both sides say why.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <functional>
#include <optional>
#include <thread>

#include "base/fd.hpp"
#include "tests/transport/channel_io.hpp"
#include "tests/transport/tls_files.hpp"
#include "transport/record_channel.hpp"
#include "transport/socket_address.hpp"
#include "transport/tls_context.hpp"
#include "transport/tls_key_file.hpp"

namespace migrate::test {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

/// What each side was told when the two met; nothing where it went well.
struct Meeting {
  std::optional<Error> source;
  std::optional<Error> target;
  std::size_t bytes_taken = 0;  ///< Of what the source said.
};

constexpr std::size_t kHelloBytes = 1 << 20;

class TlsRefusal : public testing::Test {
 protected:
  std::unique_ptr<Acceptor> listen() {
    auto acceptor = make_tcp_acceptor("127.0.0.1", "0");
    EXPECT_TRUE(acceptor);
    const std::string address = (*acceptor)->address();
    port_ = address.substr(address.rfind(':') + 1);
    return *std::move(acceptor);
  }
  std::unique_ptr<Acceptor> listen(const TlsOptions& options) {
    auto context = make_tls_context(TlsRole::kAccept, options);
    EXPECT_TRUE(context) << context.error().to_text();
    return make_tls_acceptor(listen(), *context);
  }
  std::unique_ptr<Connector> connector(const TlsOptions& options) {
    auto context = make_tls_context(TlsRole::kConnect, options);
    EXPECT_TRUE(context) << context.error().to_text();
    return make_tls_connector(make_tcp_connector("127.0.0.1", port_), *context);
  }

  /// As a target does: one connection, its first bytes, an answer.
  static void take_one(Acceptor& acceptor, Meeting& meeting) {
    auto channel = acceptor.accept(kLong);
    ASSERT_TRUE(channel) << channel.error().to_text();
    std::vector<std::byte> hello(kHelloBytes);
    const auto got = (*channel)->receive(one_part(hello), kLong);
    if (!got) {
      meeting.target = got.error();
    } else {
      meeting.bytes_taken = *got;
      ASSERT_TRUE(receive_all(**channel, after(one_part(hello), *got)));
      const Status sent = send_bytes(**channel, random_bytes(10));
      static_cast<void>(sent);
    }
  }
  /// As a source does: says much, then listens.
  static void visit(Connector& connector, Meeting& meeting) {
    auto channel = connector.connect(kLong);
    if (!channel) {
      meeting.source = channel.error();
      return;
    }
    const std::vector<std::byte> hello(kHelloBytes);
    if (const Status sent = send_bytes(**channel, hello); !sent) {
      meeting.source = sent.error();
      return;
    }
    std::vector<std::byte> answer(10);
    if (const Status got = receive_all(**channel, one_part(answer)); !got) {
      meeting.source = got.error();
    }
  }
  Meeting meet(const TlsOptions& source, const TlsOptions& target) {
    Meeting meeting;
    const auto acceptor = listen(target);
    std::jthread taking([&] { take_one(*acceptor, meeting); });
    visit(*connector(source), meeting);
    return meeting;
  }

  static void expect_refused(const Meeting& meeting, const std::string& source,
                             const std::string& target) {
    ASSERT_TRUE(meeting.source);
    ASSERT_TRUE(meeting.target);
    EXPECT_EQ(meeting.source->code, ErrorCode::kUnauthorized) << meeting.source->to_text();
    EXPECT_THAT(meeting.source->message, HasSubstr(source));
    EXPECT_FALSE(meeting.source->remedy.empty()) << meeting.source->to_text();
    EXPECT_EQ(meeting.target->code, ErrorCode::kUnauthorized) << meeting.target->to_text();
    EXPECT_THAT(meeting.target->message, HasSubstr(target));
    EXPECT_FALSE(meeting.target->remedy.empty()) << meeting.target->to_text();
    EXPECT_EQ(meeting.bytes_taken, 0u);
  }

  TlsFiles files_;
  std::string port_;
};

TEST_F(TlsRefusal, HostsOfOneAuthorityMeet) {
  const Meeting meeting = meet(files_.host("source"), files_.host("target"));
  EXPECT_FALSE(meeting.source) << meeting.source->to_text();
  EXPECT_FALSE(meeting.target) << meeting.target->to_text();
  EXPECT_GT(meeting.bytes_taken, 0u);
}

TEST_F(TlsRefusal, ATargetOfAnotherAuthority) {
  TlsOptions target = files_.host("target", "other");
  target.ca_file = files_.authority("ca").certificate;
  expect_refused(meet(files_.host("source"), target), "not of an authority that is trusted here",
                 "refuses this host's certificate: it is not of an authority");
}

TEST_F(TlsRefusal, ASourceOfAnotherAuthority) {
  TlsOptions source = files_.host("source", "other");
  source.ca_file = files_.authority("ca").certificate;
  expect_refused(meet(source, files_.host("target")),
                 "refuses this host's certificate: it is not of an authority",
                 "not of an authority that is trusted here");
}

TEST_F(TlsRefusal, ATargetWhoseCertificateHasExpired) {
  expect_refused(
      meet(files_.host("source"), files_.host("target", "ca", {"127.0.0.1"}, -2 * kHour, -kHour)),
      "has expired", "it has expired");
}

TEST_F(TlsRefusal, ASourceWhoseCertificateHasExpired) {
  expect_refused(
      meet(files_.host("source", "ca", {"127.0.0.1"}, -2 * kHour, -kHour), files_.host("target")),
      "it has expired", "has expired");
}

TEST_F(TlsRefusal, CertificatesThatAreNotValidYet) {
  expect_refused(
      meet(files_.host("source"), files_.host("target", "ca", {"127.0.0.1"}, kHour, 2 * kHour)),
      "is not valid yet", "refuses this host's certificate");
  expect_refused(
      meet(files_.host("late", "ca", {"127.0.0.1"}, kHour, 2 * kHour), files_.host("ready")),
      "refuses this host's certificate", "is not valid yet");
}

TEST_F(TlsRefusal, ATargetOfAnotherName) {
  TlsOptions source = files_.host("source");
  const TlsOptions target = files_.host("target");
  source.peer_name = "db.example";
  expect_refused(meet(source, target), "is not for 'db.example'", "");
  source.peer_name = "10.1.2.3";
  expect_refused(meet(source, target), "is not for '10.1.2.3'", "");
  source.peer_name = "localhost";
  EXPECT_FALSE(meet(source, target).source);
}

TEST_F(TlsRefusal, ACommonNameIsNoName) {
  TlsOptions source = files_.host("source");
  source.peer_name = "target";
  expect_refused(meet(source, files_.host("target", "ca", {})), "is not for 'target'", "");
}

TEST_F(TlsRefusal, AnotherPreSharedKey) {
  expect_refused(meet(files_.psk("one"), files_.psk("other")),
                 "does not accept this host's pre-shared key",
                 "does not offer this host's pre-shared key");
}

TEST_F(TlsRefusal, AKeyHereAndCertificatesThere) {
  const TlsOptions key = files_.psk("key");
  const TlsOptions certificate = files_.host("host");
  expect_refused(meet(certificate, key), "no way to authenticate in common", "pre-shared key");
  expect_refused(meet(key, certificate), "shows a certificate instead of the pre-shared key",
                 "refuses this host's certificate");
}

TEST_F(TlsRefusal, TheSameKeyMeetsInHexadecimalAndBase64) {
  std::ofstream(files_.path("hex")) << "  000102030405060708090a0b0c0d0e0f\n";
  std::ofstream(files_.path("base64")) << "AAECAwQFBgcICQoLDA0ODw==";
  TlsOptions source;
  TlsOptions target;
  source.psk_file = files_.path("hex");
  target.psk_file = files_.path("base64");
  ASSERT_EQ(::chmod(source.psk_file.c_str(), 0600), 0);
  ASSERT_EQ(::chmod(target.psk_file.c_str(), 0600), 0);
  EXPECT_FALSE(meet(source, target).source);
}

/// An OpenSSL client that is not ours. Gives the reason code of how its handshake failed.
int foreign_handshake(const std::string& port, const std::function<void(SSL_CTX*)>& set_up) {
  const SslContextPtr context(SSL_CTX_new(TLS_client_method()));
  set_up(context.get());
  const SslPtr ssl(SSL_new(context.get()));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(std::stoi(port)));
  const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  SSL_set_fd(ssl.get(), fd.get());
  char byte = 0;
  // In TLS 1.3 a target refuses after the client has finished.
  const bool met = SSL_connect(ssl.get()) == 1 && SSL_read(ssl.get(), &byte, 1) > 0;
  return met ? 0 : ERR_GET_REASON(ERR_peek_last_error());
}

TEST_F(TlsRefusal, ASourceWithoutACertificate) {
  Meeting meeting;
  const auto acceptor = listen(files_.host("target"));
  std::jthread taking([&] { take_one(*acceptor, meeting); });
  EXPECT_EQ(foreign_handshake(port_,
                              [](SSL_CTX* context) {
                                constexpr unsigned char kProtocols[] = "\x09migrate/1";
                                SSL_CTX_set_alpn_protos(context, kProtocols, 10);
                              }),
            SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED);
  taking.join();
  ASSERT_TRUE(meeting.target);
  EXPECT_EQ(meeting.target->code, ErrorCode::kUnauthorized);
  EXPECT_THAT(meeting.target->message, HasSubstr("shows no certificate"));
  EXPECT_THAT(meeting.target->remedy, HasSubstr("--tls-cert"));
}

TEST_F(TlsRefusal, APeerOfAnOlderTls) {
  Meeting meeting;
  const auto acceptor = listen(files_.host("target"));
  std::jthread taking([&] { take_one(*acceptor, meeting); });
  EXPECT_EQ(foreign_handshake(
                port_, [](SSL_CTX* ctx) { SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION); }),
            SSL_R_TLSV1_ALERT_PROTOCOL_VERSION);
  taking.join();
  ASSERT_TRUE(meeting.target);
  EXPECT_EQ(meeting.target->code, ErrorCode::kUnauthorized);
  EXPECT_THAT(meeting.target->message, HasSubstr("does not speak TLS 1.3"));
}

TEST_F(TlsRefusal, APeerThatSpeaksTlsForSomethingElse) {
  Meeting meeting;
  const auto acceptor = listen(files_.host("target"));
  const TlsOptions source = files_.host("web");
  std::jthread taking([&] { take_one(*acceptor, meeting); });
  EXPECT_NE(foreign_handshake(
                port_,
                [&](SSL_CTX* context) {
                  SSL_CTX_use_certificate_file(context, source.certificate_file.c_str(), 1);
                  SSL_CTX_use_PrivateKey_file(context, source.key_file.c_str(), SSL_FILETYPE_PEM);
                }),
            0);
  taking.join();
  ASSERT_TRUE(meeting.target);
  EXPECT_EQ(meeting.target->code, ErrorCode::kProtocol);
  EXPECT_THAT(meeting.target->message, HasSubstr("not for migrations"));
}

TEST_F(TlsRefusal, APlainSourceIsToldInItsOwnWords) {
  Meeting meeting;
  const auto acceptor = listen(files_.host("target"));
  std::jthread taking([&] { take_one(*acceptor, meeting); });
  auto channel = make_tcp_connector("127.0.0.1", port_)->connect(kLong);
  ASSERT_TRUE(channel);
  RecordChannel records(*std::move(channel));
  ASSERT_TRUE(records.send(wire::Ask{}, kLong));
  const auto answer = records.receive(kLong);
  ASSERT_FALSE(answer);
  meeting.source = answer.error();
  taking.join();
  expect_refused(meeting, "came without TLS", "came without TLS");
  EXPECT_THAT(meeting.source->remedy, HasSubstr("--tls-cert"));
}

TEST_F(TlsRefusal, ATlsSourceAtAPlainTarget) {
  const auto acceptor = listen();
  std::optional<Error> target;
  std::jthread taking([&] {
    auto channel = acceptor->accept(kLong);
    ASSERT_TRUE(channel);
    RecordChannel records(*std::move(channel));
    auto record = records.receive(kLong);
    ASSERT_FALSE(record);
    target = record.error();
    const Status told = records.send(wire::ErrorRecord{*target}, kLong);
    static_cast<void>(told);
  });
  const auto met = connector(files_.host("source"))->connect(kLong);
  ASSERT_FALSE(met);
  EXPECT_EQ(met.error().code, ErrorCode::kUnauthorized) << met.error().to_text();
  EXPECT_THAT(met.error().message, HasSubstr("does not speak TLS"));
  EXPECT_THAT(met.error().remedy, HasSubstr("migrate recv"));
  taking.join();
  EXPECT_THAT(target->message, HasSubstr("speaks TLS"));
  EXPECT_THAT(target->remedy, HasSubstr("--tls-cert"));
}

TEST_F(TlsRefusal, ATargetThatHangsUpIsNoLinkThatWasLost) {
  const auto acceptor = listen();
  std::jthread taking([&] { EXPECT_TRUE(acceptor->accept(kLong)); });
  const auto met = connector(files_.host("source"))->connect(kLong);
  ASSERT_FALSE(met);
  EXPECT_EQ(met.error().code, ErrorCode::kConnectFailed) << met.error().to_text();
  EXPECT_FALSE(met.error().remedy.empty());
}

TEST_F(TlsRefusal, WhoDripsBytesIsLateAllTheSame) {
  const auto acceptor = listen(files_.host("target"));
  auto slow = make_tcp_connector("127.0.0.1", port_)->connect(kLong);
  ASSERT_TRUE(slow);
  std::jthread dripping([&](const std::stop_token& stop) {
    // A ClientHello of 4 KiB that never comes whole.
    auto bytes = random_bytes(200);
    const unsigned char begin[] = {22, 3, 1, 16, 0, 1, 0, 15, 252};
    std::memcpy(bytes.data(), begin, sizeof begin);
    for (const std::byte& byte : bytes) {
      if (stop.stop_requested() || !send_bytes(**slow, {&byte, 1})) return;
      std::this_thread::sleep_for(2ms);
    }
  });
  auto channel = acceptor->accept(kLong);
  ASSERT_TRUE(channel);
  std::vector<std::byte> buffer(1);
  const auto got = (*channel)->receive(one_part(buffer), 50ms);
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code, ErrorCode::kTimeout);
  EXPECT_THAT(got.error().message, HasSubstr("handshake"));
  EXPECT_FALSE(got.error().remedy.empty());
}

TEST_F(TlsRefusal, AHandshakeCanBeInterruptedOnBothSides) {
  const auto acceptor = listen(files_.host("target"));
  auto silent = make_tcp_connector("127.0.0.1", port_)->connect(kLong);
  auto channel = acceptor->accept(kLong);
  ASSERT_TRUE(channel);
  std::jthread waiting([&] {
    std::vector<std::byte> buffer(1);
    EXPECT_EQ((*channel)->receive(one_part(buffer), kLong).error().code, ErrorCode::kCancelled);
  });
  (*channel)->interrupt();
  waiting.join();

  // Nobody answers in the listen queue.
  const auto connecting = connector(files_.host("source"));
  std::jthread visiting(
      [&] { EXPECT_EQ(connecting->connect(kLong).error().code, ErrorCode::kCancelled); });
  connecting->interrupt();
}

TEST_F(TlsRefusal, ATargetGoesOnAfterBadOnes) {
  Meeting meeting;
  const auto acceptor = listen(files_.host("target"));
  TlsOptions other = files_.host("stranger", "other");
  other.ca_file = files_.authority("ca").certificate;
  for (int i = 0; i < 3; ++i) {
    std::jthread taking([&] { take_one(*acceptor, meeting); });
    visit(*connector(other), meeting);
  }
  Meeting good;
  std::jthread taking([&] { take_one(*acceptor, good); });
  visit(*connector(files_.host("source")), good);
  taking.join();
  EXPECT_FALSE(good.source) << good.source->to_text();
  EXPECT_FALSE(good.target) << good.target->to_text();
}

class TlsOptionsTest : public TlsRefusal {
 protected:
  void expect_misused(TlsRole role, const TlsOptions& options, const std::string& what) {
    const auto context = make_tls_context(role, options);
    ASSERT_FALSE(context) << what;
    EXPECT_EQ(context.error().code, ErrorCode::kInvalidArgument) << context.error().to_text();
    EXPECT_THAT(context.error().to_text(), HasSubstr(what));
    EXPECT_FALSE(context.error().remedy.empty()) << context.error().to_text();
  }
};

TEST_F(TlsOptionsTest, FilesThatWillNotDoAreNamed) {
  const TlsOptions good = files_.host("host");
  TlsOptions bad = good;
  bad.key_file = files_.host("other").key_file;
  expect_misused(TlsRole::kAccept, bad, "is not the key of");
  bad = good;
  bad.certificate_file = files_.path("missing");
  expect_misused(TlsRole::kAccept, bad, "--tls-cert");
  bad = good;
  bad.ca_file = good.key_file;
  expect_misused(TlsRole::kAccept, bad, "--tls-ca");
  bad = good;
  bad.key_file.clear();
  expect_misused(TlsRole::kAccept, bad, "--tls-key");
  bad = good;
  bad.psk_file = files_.psk("key").psk_file;
  expect_misused(TlsRole::kAccept, bad, "not by both");
  bad = good;
  bad.peer_name.clear();
  expect_misused(TlsRole::kConnect, bad, "--tls-name");
  ASSERT_EQ(::chmod(good.key_file.c_str(), 0644), 0);
  expect_misused(TlsRole::kAccept, good, "others may read");
}

TEST_F(TlsOptionsTest, KeysThatWillNotDoAreNamed) {
  const TlsOptions options = files_.psk("key");
  ASSERT_EQ(::chmod(options.psk_file.c_str(), 0640), 0);
  expect_misused(TlsRole::kAccept, options, "chmod 600");
  for (const char* const text : {"", " \n", "short", "0011", "00112233445566778899aabbccddeef",
                                 "AAECAwQFBgcICQoLDA0O=w==", "====", "AAAA"}) {
    const auto key = parse_psk(text);
    ASSERT_FALSE(key) << text;
    EXPECT_THAT(key.error().remedy, HasSubstr("migrate keygen"));
  }
  EXPECT_FALSE(parse_psk(std::string(2 * kPskBytesMax + 2, 'a')));
  EXPECT_TRUE(parse_psk(std::string(2 * kPskBytesMax, 'a')));
}

TEST_F(TlsOptionsTest, NewFilesReplaceNothing) {
  const TlsOptions key = files_.psk("key");
  EXPECT_EQ(write_psk(key.psk_file).error().code, ErrorCode::kInvalidArgument);
  const CertificateFiles ca = files_.authority("ca");
  EXPECT_FALSE(write_authority(ca, {"again", {}, -kHour, kHour}));
  EXPECT_FALSE(write_certificate({files_.path("bad"), files_.path("bad.key")}, ca,
                                 {"bad", {"a,DNS:b"}, -kHour, kHour}));
  struct stat status {};
  ASSERT_EQ(::stat(ca.key.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

}  // namespace
}  // namespace migrate::test
