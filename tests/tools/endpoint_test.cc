#include "tools/migrate/endpoint.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/vm_sockets.h>
#include <sys/socket.h>

#include <string>
#include <utility>

#include "base/fd.hpp"
#include "tests/transport/channel_io.hpp"
#include "transport/socket_address.hpp"

namespace migrate::tool {
namespace {

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
    if (each.kind == Kind::kVsock) continue;
    EXPECT_TRUE(require_loopback(*parsed)) << each.given;
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

TEST(Endpoint, AnInheritedTcpSocketIsJudgedByWhereItListens) {
  for (const auto& [host, allowed] : {std::pair("127.0.0.1", true), std::pair("0.0.0.0", false)}) {
    auto listening = listen_tcp(host, "0");
    ASSERT_TRUE(listening);
    const std::string text = "fd:" + std::to_string(listening->socket.get());
    const auto endpoint = parse_endpoint(text, EndpointUse::kListen);
    ASSERT_TRUE(endpoint);
    EXPECT_EQ(require_loopback(*endpoint).has_value(), allowed) << host;
    // A copy listens, and what was inherited stays open, but not for sessions' processes.
    ASSERT_EQ(::fcntl(listening->socket.get(), F_SETFD, 0), 0);
    EXPECT_TRUE(listen_on(*endpoint, {}));
    EXPECT_EQ(::fcntl(listening->socket.get(), F_GETFD), FD_CLOEXEC);
    EXPECT_TRUE(listen_on(*endpoint, {}));
  }
  EXPECT_FALSE(listen_on(*parse_endpoint("fd:0", EndpointUse::kListen), {}));
  EXPECT_FALSE(listen_on(*parse_endpoint("fd:9999", EndpointUse::kListen), {}));
}

/// A vsock socket at `cid`, as `fd:N`; empty where this kernel has no such.
std::string vsock_endpoint(std::uint32_t cid, Fd& socket) {
  socket = Fd(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const SocketAddress address = vsock_address(cid, VMADDR_PORT_ANY);
  if (!socket || ::bind(socket.get(), address.get(), address.length) != 0) return {};
  return "fd:" + std::to_string(socket.get());
}

TEST(Endpoint, AnInheritedVsockSocketForAnyMachineIsBeyondLoopback) {
  Fd socket;
  const std::string text = vsock_endpoint(kVsockCidAny, socket);
  if (text.empty()) GTEST_SKIP() << test::kNoVsockLoopback;
  EXPECT_FALSE(require_loopback(*parse_endpoint(text, EndpointUse::kListen)));
}

TEST(Endpoint, AnInheritedVsockSocketForThisMachineAloneIsNot) {
  Fd socket;
  const std::string text = vsock_endpoint(VMADDR_CID_LOCAL, socket);
  if (text.empty()) GTEST_SKIP() << test::kNoVsockLoopback;
  EXPECT_TRUE(require_loopback(*parse_endpoint(text, EndpointUse::kListen)));
}

TEST(Endpoint, OnlyLoopbackPassesWithoutInsistence) {
  for (const char* text :
       {"127.0.0.1:1", "127.8.9.10:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "vsock:1:4444"}) {
    EXPECT_TRUE(require_loopback(*parse_endpoint(text, EndpointUse::kListen))) << text;
  }
  for (const char* text :
       {"10.0.0.1:1", "0.0.0.0:1", "[::]:1", "[fe80::1]:1", "[::ffff:10.0.0.1]:1", "vsock:4444",
        "vsock:any:4444", "vsock:2:4444", "vsock:3:4444", "vsock:4294967295:4444"}) {
    const Status status = require_loopback(*parse_endpoint(text, EndpointUse::kListen));
    ASSERT_FALSE(status) << text;
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument) << text;
    EXPECT_NE(status.error().remedy.find("--insecure"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace migrate::tool
