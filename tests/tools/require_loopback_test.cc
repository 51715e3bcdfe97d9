#include "tools/migrate/require_loopback.hpp"

#include <gtest/gtest.h>
#include <linux/vm_sockets.h>
#include <sys/socket.h>

#include <string>
#include <utility>

#include "base/fd.hpp"
#include "tests/transport/channel_io.hpp"
#include "transport/listening_socket.hpp"
#include "transport/socket_address.hpp"

namespace migrate::tool {
namespace {

TEST(RequireLoopback, AnInheritedTcpSocketIsJudgedByWhereItListens) {
  for (const auto& [host, allowed] : {std::pair("127.0.0.1", true), std::pair("0.0.0.0", false)}) {
    auto listening = listen_tcp(host, "0");
    ASSERT_TRUE(listening);
    const std::string text = "fd:" + std::to_string(listening->socket.get());
    const auto endpoint = parse_endpoint(text, EndpointUse::kListen);
    ASSERT_TRUE(endpoint);
    EXPECT_EQ(require_loopback(*endpoint).has_value(), allowed) << host;
  }
}

/// A vsock socket at `cid`, as `fd:N`; empty where this kernel has no such.
std::string vsock_endpoint(std::uint32_t cid, Fd& socket) {
  socket = Fd(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const SocketAddress address = vsock_address(cid, VMADDR_PORT_ANY);
  if (!socket || ::bind(socket.get(), address.get(), address.length) != 0) return {};
  return "fd:" + std::to_string(socket.get());
}

TEST(RequireLoopback, AnInheritedVsockSocketForAnyMachineIsBeyondLoopback) {
  Fd socket;
  const std::string text = vsock_endpoint(kVsockCidAny, socket);
  if (text.empty()) GTEST_SKIP() << test::kNoVsockLoopback;
  EXPECT_FALSE(require_loopback(*parse_endpoint(text, EndpointUse::kListen)));
}

TEST(RequireLoopback, AnInheritedVsockSocketForThisMachineAloneIsNot) {
  Fd socket;
  const std::string text = vsock_endpoint(VMADDR_CID_LOCAL, socket);
  if (text.empty()) GTEST_SKIP() << test::kNoVsockLoopback;
  EXPECT_TRUE(require_loopback(*parse_endpoint(text, EndpointUse::kListen)));
}

TEST(RequireLoopback, AUnixSocketIsItsModesToGuard) {
  for (const char* text : {"unix:/run/a.sock", "unix:/a:1"}) {
    EXPECT_TRUE(require_loopback(*parse_endpoint(text, EndpointUse::kListen))) << text;
  }
}

TEST(RequireLoopback, OnlyLoopbackPassesWithoutInsistence) {
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
