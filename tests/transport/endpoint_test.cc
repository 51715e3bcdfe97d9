#include "migrate/endpoint.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>

#include "tests/transport/tls_files.hpp"
#include "transport/listen_on.hpp"

namespace migrate {
namespace {

constexpr std::chrono::seconds kPatience{60};

TEST(Endpoint, NamesAndAddressesParse) {
  const auto name = parse_endpoint("host-b:4444", EndpointUse::kSend);
  ASSERT_TRUE(name);
  EXPECT_EQ(name->host, "host-b");
  EXPECT_EQ(name->port, "4444");
  const auto v6 = parse_endpoint("[::1]:4444", EndpointUse::kSend);
  ASSERT_TRUE(v6);
  EXPECT_EQ(v6->host, "::1");
  EXPECT_EQ(v6->text(), "[::1]:4444");
}

TEST(Endpoint, OtherKindsParseAndReadAsTheyWereGiven) {
  using Kind = Endpoint::Kind;
  const struct {
    const char* given;
    EndpointUse use;
    Kind kind;
    const char* text;
  } cases[] = {
      {"unix:/run/a.sock", EndpointUse::kSend, Kind::kUnix, "unix:/run/a.sock"},
      {"unix:/a:1", EndpointUse::kListen, Kind::kUnix, "unix:/a:1"},
      {"vsock:3:4444", EndpointUse::kSend, Kind::kVsock, "vsock:3:4444"},
      {"vsock:4444", EndpointUse::kListen, Kind::kVsock, "vsock:any:4444"},
      {"vsock:any:4444", EndpointUse::kListen, Kind::kVsock, "vsock:any:4444"},
      {"fd:3", EndpointUse::kListen, Kind::kInherited, "fd:3"},
  };
  for (const auto& each : cases) {
    const auto parsed = parse_endpoint(each.given, each.use);
    ASSERT_TRUE(parsed) << each.given;
    EXPECT_EQ(parsed->kind, each.kind) << each.given;
    EXPECT_EQ(parsed->text(), each.text);
  }
}

TEST(Endpoint, NonsenseIsRefusedWithWhatToGive) {
  for (const EndpointUse use : {EndpointUse::kSend, EndpointUse::kListen}) {
    for (const char* text : {"",
                             "host",
                             ":4444",
                             "host:",
                             "host:x",
                             "host:65536",
                             "host:-1",
                             "::1:4444",
                             "host: 1",
                             "[]:1",
                             "unix:",
                             "unix:a.sock",
                             "vsock:",
                             "vsock:x",
                             "vsock:3:",
                             "vsock:-1:4",
                             "vsock:4294967296:1",
                             "fd:",
                             "fd:-1",
                             "fd:x"}) {
      const auto parsed = parse_endpoint(text, use);
      ASSERT_FALSE(parsed) << text;
      EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument) << text;
      EXPECT_NE(parsed.error().remedy.find("HOST:PORT"), std::string::npos) << text;
    }
  }
}

TEST(Endpoint, NobodyCanSendToWhatOnlyListens) {
  for (const char* text : {"host:0", "vsock:4444", "vsock:any:4444", "fd:3"}) {
    EXPECT_FALSE(parse_endpoint(text, EndpointUse::kSend)) << text;
    EXPECT_TRUE(parse_endpoint(text, EndpointUse::kListen)) << text;
  }
}

TEST(Endpoint, WhatListensAndWhatConnectsMeet) {
  auto acceptor = make_acceptor(*parse_endpoint("127.0.0.1:0", EndpointUse::kListen));
  ASSERT_TRUE(acceptor) << acceptor.error().to_text();
  const auto there = parse_endpoint((*acceptor)->address(), EndpointUse::kSend);
  ASSERT_TRUE(there) << there.error().to_text();
  EXPECT_TRUE(make_connector(*there)->connect(kPatience));
  EXPECT_TRUE((*acceptor)->accept(kPatience));
}

TEST(Endpoint, TextMakesBothEndsAndNonsenseNone) {
  auto acceptor = make_acceptor("127.0.0.1:0", TlsOptions{});
  ASSERT_TRUE(acceptor) << acceptor.error().to_text();
  auto connector = make_connector((*acceptor)->address(), TlsOptions{});
  ASSERT_TRUE(connector) << connector.error().to_text();
  EXPECT_TRUE((*connector)->connect(kPatience));
  EXPECT_TRUE((*acceptor)->accept(kPatience));
  EXPECT_FALSE(make_connector("nonsense", TlsOptions{}));
  EXPECT_FALSE(make_acceptor("nonsense", TlsOptions{}));
}

TEST(Endpoint, SecuredEndsLookForTheHostThatWasNamed) {
  test::TlsFiles files;
  const auto acceptor = make_acceptor("127.0.0.1:0", files.host("target"));
  ASSERT_TRUE(acceptor) << acceptor.error().to_text();
  TlsOptions source = files.host("source");
  source.peer_name.clear();
  const auto connector = make_connector((*acceptor)->address(), source);
  ASSERT_TRUE(connector) << connector.error().to_text();
  std::jthread target([&] {
    const auto channel = (*acceptor)->accept(kPatience);
    ASSERT_TRUE(channel);
    std::byte word{};
    const iovec into{&word, 1};
    // The handshake is part of the first receive; then the source has nothing to say.
    const auto received = (*channel)->receive({&into, 1}, kPatience);
    ASSERT_TRUE(received) << received.error().to_text();
    EXPECT_EQ(*received, 0u);
  });
  const auto channel = (*connector)->connect(kPatience);
  ASSERT_TRUE(channel) << channel.error().to_text();
  EXPECT_NE((*channel)->peer_identity(), "");
}

TEST(Endpoint, AnInheritedSocketStaysOpenButNotForProgramsRunLater) {
  auto listening = listen_tcp("127.0.0.1", "0");
  ASSERT_TRUE(listening);
  const int fd = listening->socket.get();
  const auto endpoint = parse_endpoint("fd:" + std::to_string(fd), EndpointUse::kListen);
  ASSERT_TRUE(endpoint);
  ASSERT_EQ(::fcntl(fd, F_SETFD, 0), 0);
  EXPECT_TRUE(listen_on(*endpoint, {}));
  EXPECT_EQ(::fcntl(fd, F_GETFD), FD_CLOEXEC);
  EXPECT_TRUE(make_acceptor(*endpoint));
}

TEST(Endpoint, WhatWasNotInheritedCannotListen) {
  for (const char* text : {"fd:0", "fd:9999"}) {
    EXPECT_FALSE(make_acceptor(*parse_endpoint(text, EndpointUse::kListen))) << text;
  }
}

}  // namespace
}  // namespace migrate
