// TCP: what operators meet when hosts, ports and names are not as they think.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <array>
#include <thread>

#include "base/event_fd.hpp"
#include "base/fd.hpp"
#include "tests/transport/channel_io.hpp"
#include "transport/socket_address.hpp"

namespace migrate::test {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

std::string port_of(const std::string& address) { return address.substr(address.rfind(':') + 1); }

std::unique_ptr<Acceptor> listening(const std::string& host, const std::string& port = "0") {
  auto acceptor = make_tcp_acceptor(host, port);
  EXPECT_TRUE(acceptor) << acceptor.error().to_text();
  return *std::move(acceptor);
}

/// A loopback port on which a connect is never answered: its listener's queue is full.
class SilentPort {
 public:
  SilentPort() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const auto* generic = reinterpret_cast<const sockaddr*>(&address);
    EXPECT_EQ(::bind(listener_.get(), generic, sizeof address), 0);
    EXPECT_EQ(::listen(listener_.get(), 0), 0);
    port_ = port_of(local_text(listener_.get()));
    // A queue of 0 takes one or two connections; those after them wait for an answer.
    for (auto& channel : taken_) {
      auto made = make_tcp_connector("127.0.0.1", port_)->connect(std::chrono::milliseconds(50));
      if (made) channel = *std::move(made);
    }
  }
  [[nodiscard]] const std::string& port() const { return port_; }

 private:
  Fd listener_;
  std::string port_;
  std::array<std::unique_ptr<Channel>, 4> taken_;
};

TEST(TcpAcceptor, TellsTheAddressItReallyHas) {
  EXPECT_THAT(listening("127.0.0.1")->address(), MatchesRegex("127\\.0\\.0\\.1:[1-9][0-9]*"));
  EXPECT_THAT(listening("::1")->address(), MatchesRegex("\\[::1\\]:[1-9][0-9]*"));
}

TEST(TcpAcceptor, NamesItsPeersAsTheyAre) {
  // A socket for both families shows an IPv4 peer by its IPv4 address.
  for (const char* host : {"0.0.0.0", "::"}) {
    auto acceptor = listening(host);
    auto near = make_tcp_connector("127.0.0.1", port_of(acceptor->address()))->connect(kLong);
    ASSERT_TRUE(near) << near.error().to_text();
    auto far = acceptor->accept(kLong);
    ASSERT_TRUE(far);
    EXPECT_EQ((*near)->peer(), "127.0.0.1:" + port_of(acceptor->address()));
    EXPECT_THAT((*far)->peer(), testing::StartsWith("127.0.0.1:"));
  }
}

TEST(TcpAcceptor, APortInUseIsAnAddressInUse) {
  auto first = listening("127.0.0.1");
  const auto second = make_tcp_acceptor("127.0.0.1", port_of(first->address()));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kAddressInUse);
  EXPECT_THAT(second.error().to_text(), HasSubstr(first->address()));
  EXPECT_FALSE(second.error().remedy.empty());
}

TEST(TcpAcceptor, APortIsFreeAgainAtOnceAfterItsConnectionsClosed) {
  std::string port;
  {
    auto acceptor = listening("127.0.0.1");
    port = port_of(acceptor->address());
    auto near = make_tcp_connector("127.0.0.1", port)->connect(kLong);
    auto far = acceptor->accept(kLong);
    ASSERT_TRUE(far);
    far->reset();  // Closes first, so that its side keeps the port in TIME_WAIT.
  }
  EXPECT_TRUE(make_tcp_acceptor("127.0.0.1", port));
}

TEST(TcpAcceptor, AnAddressOfAnotherHostIsRefusedWithARemedy) {
  const auto acceptor = make_tcp_acceptor("192.0.2.1", "0");
  ASSERT_FALSE(acceptor);
  EXPECT_EQ(acceptor.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(acceptor.error().remedy, HasSubstr("ip addr"));
}

TEST(TcpAcceptor, WaitsEndByDeadlineOrInterrupt) {
  auto acceptor = listening("127.0.0.1");
  EXPECT_EQ(acceptor->accept(kShort).error().code, ErrorCode::kTimeout);
  std::jthread waiter(
      [&] { EXPECT_EQ(acceptor->accept(kLong).error().code, ErrorCode::kCancelled); });
  acceptor->interrupt();
  waiter.join();
  EXPECT_EQ(acceptor->accept(kLong).error().code, ErrorCode::kCancelled);
}

TEST(TcpAcceptor, APeerThatIsGoneBeforeItIsAcceptedDoesNoHarm) {
  auto acceptor = listening("127.0.0.1");
  auto gone = make_tcp_connector("127.0.0.1", port_of(acceptor->address()))->connect(kLong);
  ASSERT_TRUE(gone);
  gone->reset();
  auto channel = acceptor->accept(kLong);
  ASSERT_TRUE(channel) << channel.error().to_text();
  EXPECT_EQ(read_to_end(**channel), std::nullopt);
}

/// Nobody else in this process may open descriptors meanwhile, so the test runs in a child.
void accept_without_descriptors() {
  auto acceptor = listening("127.0.0.1");
  auto near = make_tcp_connector("127.0.0.1", port_of(acceptor->address()))->connect(kLong);
  rlimit none{};
  ::getrlimit(RLIMIT_NOFILE, &none);
  none.rlim_cur = 3;
  ::setrlimit(RLIMIT_NOFILE, &none);
  rusage before{};
  ::getrusage(RUSAGE_SELF, &before);
  const auto channel = acceptor->accept(std::chrono::milliseconds(300));
  rusage after{};
  ::getrusage(RUSAGE_SELF, &after);
  const bool told = !channel && channel.error().code == ErrorCode::kIo &&
                    channel.error().remedy.find("ulimit") != std::string::npos;
  // Spinning would not sleep at all.
  const bool slept = after.ru_nvcsw > before.ru_nvcsw;
  std::_Exit(told && slept ? 0 : 1);
}

TEST(TcpAcceptorDeathTest, RunningOutOfDescriptorsIsToldAndDoesNotSpin) {
  EXPECT_EXIT(accept_without_descriptors(), testing::ExitedWithCode(0), "");
}

TEST(TcpConnector, ARefusalAsksWhetherRecvRuns) {
  std::string port;
  {
    auto acceptor = listening("127.0.0.1");
    port = port_of(acceptor->address());
  }
  const auto channel = make_tcp_connector("127.0.0.1", port)->connect(kLong);
  ASSERT_FALSE(channel);
  EXPECT_EQ(channel.error().code, ErrorCode::kConnectFailed);
  EXPECT_THAT(channel.error().message, HasSubstr("127.0.0.1:" + port));
  EXPECT_THAT(channel.error().remedy, HasSubstr("migrate recv"));
}

TEST(TcpConnector, ASilentHostIsATimeout) {
  const SilentPort silent;
  const auto channel =
      make_tcp_connector("127.0.0.1", silent.port())->connect(std::chrono::milliseconds(50));
  ASSERT_FALSE(channel);
  EXPECT_EQ(channel.error().code, ErrorCode::kTimeout);
  EXPECT_THAT(channel.error().remedy, HasSubstr("firewall"));
}

TEST(TcpConnector, InterruptEndsAConnectUnderWayAndLaterOnes) {
  const SilentPort silent;
  auto connector = make_tcp_connector("127.0.0.1", silent.port());
  std::jthread connecting(
      [&] { EXPECT_EQ(connector->connect(kLong).error().code, ErrorCode::kCancelled); });
  connector->interrupt();
  connecting.join();
  EXPECT_EQ(connector->connect(kLong).error().code, ErrorCode::kCancelled);
}

TEST(TcpConnector, NamesAreResolvedAndEveryAddressIsTried) {
  // localhost may stand for ::1 as well, where nobody listens.
  auto acceptor = listening("127.0.0.1");
  auto channel = make_tcp_connector("localhost", port_of(acceptor->address()))->connect(kLong);
  ASSERT_TRUE(channel) << channel.error().to_text();
  EXPECT_TRUE(acceptor->accept(kLong));
}

TEST(TcpConnector, AnUnknownNameIsToldAsSuch) {
  // A label may have 63 bytes: no resolver needs to ask anybody about this one.
  const std::string name = std::string(70, 'x') + ".invalid";
  const auto channel = make_tcp_connector(name, "4444")->connect(kLong);
  ASSERT_FALSE(channel);
  EXPECT_EQ(channel.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(channel.error().message, HasSubstr(name));
  EXPECT_THAT(channel.error().remedy, HasSubstr("IP address"));
}

TEST(Tcp, PortsThatAreNoneAreRefused) {
  for (const char* port : {"", "x", "-1", "65536", "4444x", " 1", "99999999999"}) {
    SCOPED_TRACE(port);
    const auto channel = make_tcp_connector("127.0.0.1", port)->connect(kLong);
    ASSERT_FALSE(channel);
    EXPECT_EQ(channel.error().code, ErrorCode::kInvalidArgument);
    EXPECT_FALSE(make_tcp_acceptor("127.0.0.1", port));
  }
  EXPECT_FALSE(make_tcp_connector("127.0.0.1", "0")->connect(kLong));
}

TEST(Tcp, ConnectorsTellWhereTheyConnectTo) {
  EXPECT_EQ(make_tcp_connector("host-b", "4444")->peer(), "host-b:4444");
  EXPECT_EQ(make_tcp_connector("fe80::1", "4444")->peer(), "[fe80::1]:4444");
}

TEST(Tcp, OnLoopbackNothingIsPaced) {
  const auto plain = listening("127.0.0.1");
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(std::stoi(port_of(plain->address()))));
  ASSERT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  const auto channel = make_socket_channel(fd);
  ASSERT_TRUE(channel);
  std::array<char, 16> name{};
  socklen_t size = name.size();
  ASSERT_EQ(::getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name.data(), &size), 0);
  EXPECT_STREQ(name.data(), "reno");
}

TEST(Tcp, BufferSizesAreAsAsked) {
  SocketOptions options;
  options.send_buffer_bytes = 65536;
  options.receive_buffer_bytes = 65536;
  auto acceptor = make_tcp_acceptor("127.0.0.1", "0", options);
  ASSERT_TRUE(acceptor);
  auto near =
      make_tcp_connector("127.0.0.1", port_of((*acceptor)->address()), options)->connect(kLong);
  auto far = (*acceptor)->accept(kLong);
  ASSERT_TRUE(near);
  ASSERT_TRUE(far);
  // The kernel doubles what is asked, at both ends; its own choice would be megabytes.
  const Status sent = (*near)->send(many_parts(2), kShort);
  EXPECT_FALSE(sent);
  EXPECT_LE((*near)->unsent_bytes(), 4u * 65536);
}

TEST(SocketAddress, LooksLikeWhatPeopleType) {
  auto event = EventFd::create();
  ASSERT_TRUE(event);
  for (const char* host : {"10.0.0.2", "fe80::2"}) {
    const auto addresses =
        resolve(host, "4444", AddressUse::kConnect, *event, SteadyDeadline::max());
    ASSERT_TRUE(addresses);
    ASSERT_EQ(addresses->size(), 1u);
    EXPECT_EQ(to_text(addresses->front()), host_and_port(host, "4444"));
  }
  const auto unix = unix_address("/run/migrate/a.sock");
  ASSERT_TRUE(unix);
  EXPECT_EQ(to_text(*unix), "unix:/run/migrate/a.sock");
}

}  // namespace
}  // namespace migrate::test
