// Every channel made of a socket keeps the promises of Channel, whatever the family and however its
// bytes are moved.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <thread>
#include <tuple>

#include "base/fd.hpp"
#include "tests/transport/channel_io.hpp"

namespace migrate::test {
namespace {

using namespace std::chrono_literals;

ChannelPair connected(Connector& connector, Acceptor& acceptor) {
  auto near = connector.connect(kLong);
  auto far = acceptor.accept(kLong);
  EXPECT_TRUE(near) << near.error().to_text();
  EXPECT_TRUE(far) << far.error().to_text();
  return {*std::move(near), *std::move(far)};
}

ChannelPair over_tcp(const std::string& host, const SocketOptions& options) {
  auto acceptor = make_tcp_acceptor(host, "0", options);
  EXPECT_TRUE(acceptor) << acceptor.error().to_text();
  const std::string address = (*acceptor)->address();
  auto connector = make_tcp_connector(host, address.substr(address.rfind(':') + 1), options);
  return connected(*connector, **acceptor);
}

ChannelPair over_ipv4(const SocketOptions& options) { return over_tcp("127.0.0.1", options); }
ChannelPair over_ipv6(const SocketOptions& options) { return over_tcp("::1", options); }

ChannelPair over_unix(const SocketOptions& options) {
  const std::string path = testing::TempDir() + "/channel-" + std::to_string(::getpid()) + ".sock";
  auto acceptor = make_unix_acceptor(path, options);
  EXPECT_TRUE(acceptor) << acceptor.error().to_text();
  return connected(*make_unix_connector(path, options), **acceptor);
}

ChannelPair over_pair(const SocketOptions& options) {
  auto pair = make_channel_pair(options);
  EXPECT_TRUE(pair);
  return {std::move(pair->first), std::move(pair->second)};
}

ChannelPair over_vsock(const SocketOptions& options) {
  auto acceptor = make_vsock_acceptor(kVsockCidLocal, kVsockPortAny, options);
  EXPECT_TRUE(acceptor) << acceptor.error().to_text();
  const std::string address = (*acceptor)->address();
  const auto port = std::stoul(address.substr(address.rfind(':') + 1));
  return connected(*make_vsock_connector(kVsockCidLocal, static_cast<std::uint32_t>(port), options),
                   **acceptor);
}

struct Family {
  const char* name;
  ChannelPair (*open)(const SocketOptions&);
  friend void PrintTo(const Family& family, std::ostream* out) { *out << family.name; }
};

struct Means {
  const char* name;
  SocketIo io = SocketIo::kAuto;
  bool zero_copy = false;
  friend void PrintTo(const Means& means, std::ostream* out) { *out << means.name; }
};

class SocketChannel : public testing::TestWithParam<std::tuple<Family, Means>> {
 protected:
  void SetUp() override {
    const auto& [family, means] = GetParam();
    SocketOptions options;
    options.io = means.io;
    options.zero_copy = means.zero_copy;
    if (means.io == SocketIo::kUring && !uring_works()) GTEST_SKIP() << kNoUring;
    if (family.open == over_vsock && !vsock_loops()) GTEST_SKIP() << kNoVsockLoopback;
    pair_ = family.open(options);
    ASSERT_TRUE(pair_.near && pair_.far);
  }

  ChannelPair pair_;
};

constexpr Means kPoll{"poll", SocketIo::kPoll};
constexpr Means kUring{"uring", SocketIo::kUring};

std::string name_of(const testing::TestParamInfo<std::tuple<Family, Means>>& info) {
  return std::string(std::get<0>(info.param).name) + "_" + std::get<1>(info.param).name;
}

INSTANTIATE_TEST_SUITE_P(
    Families, SocketChannel,
    testing::Combine(testing::Values(Family{"ipv4", over_ipv4}, Family{"ipv6", over_ipv6},
                                     Family{"unix", over_unix}, Family{"pair", over_pair}),
                     testing::Values(kPoll, kUring)),
    name_of);
INSTANTIATE_TEST_SUITE_P(Vsock, SocketChannel,
                         testing::Combine(testing::Values(Family{"vsock", over_vsock}),
                                          testing::Values(kPoll)),
                         name_of);
INSTANTIATE_TEST_SUITE_P(ZeroCopy, SocketChannel,
                         testing::Combine(testing::Values(Family{"ipv4", over_ipv4},
                                                          Family{"ipv6", over_ipv6}),
                                          testing::Values(Means{"poll", SocketIo::kPoll, true},
                                                          Means{"uring", SocketIo::kUring, true})),
                         name_of);

TEST_P(SocketChannel, OddPartsArriveByteForByte) {
  for (const std::size_t most : {std::size_t{7}, std::size_t{4096}, std::size_t{300'000}}) {
    SCOPED_TRACE(most);
    const auto bytes = random_bytes(most == 7 ? 100'000 : 8'000'000, most);
    std::vector<std::byte> received(bytes.size());
    std::jthread sender([&] {
      const Status sent = pair_.near->send(odd_parts(bytes, most, 1), kLong);
      EXPECT_TRUE(sent);
    });
    const Status status = receive_all(*pair_.far, odd_parts(received, most * 2, 2));
    ASSERT_TRUE(status) << status.error().to_text();
    EXPECT_TRUE(received == bytes);
  }
}

TEST_P(SocketChannel, MorePartsThanTheKernelTakesAtOnceArrive) {
  const auto bytes = random_bytes(10'000 * 5);
  std::vector<iovec> parts;
  for (std::size_t i = 0; i < 10'000; ++i) parts.push_back(one_part({&bytes[i * 5], 5})[0]);
  std::vector<std::byte> received(bytes.size());
  std::jthread sender([&] { EXPECT_TRUE(pair_.near->send(parts, kLong)); });
  ASSERT_TRUE(receive_all(*pair_.far, odd_parts(received, 4, 3)));
  EXPECT_TRUE(received == bytes);
}

TEST_P(SocketChannel, NothingToSendIsSent) {
  EXPECT_TRUE(pair_.near->send({}, kShort));
  EXPECT_TRUE(pair_.near->send(std::vector<iovec>(5), kShort));
}

TEST_P(SocketChannel, BothDirectionsAtOnce) {
  const auto bytes = random_bytes(4'000'000);
  const auto exchange = [&](Channel& channel) {
    std::jthread sender([&] { EXPECT_TRUE(send_bytes(channel, bytes)); });
    std::vector<std::byte> received(bytes.size());
    EXPECT_TRUE(receive_all(channel, one_part(received)));
    EXPECT_TRUE(received == bytes);
  };
  std::jthread far([&] { exchange(*pair_.far); });
  exchange(*pair_.near);
}

TEST_P(SocketChannel, ReceiveGivesWhatIsThere) {
  ASSERT_TRUE(send_bytes(*pair_.near, random_bytes(10)));
  std::vector<std::byte> buffer(100);
  const auto count = pair_.far->receive(one_part(buffer), kLong);
  ASSERT_TRUE(count);
  EXPECT_GE(*count, 1u);
  EXPECT_LE(*count, 10u);
}

TEST_P(SocketChannel, AStalledPeerIsATimeoutOnBothWays) {
  std::vector<std::byte> buffer(10);
  const auto received = pair_.near->receive(one_part(buffer), kShort);
  ASSERT_FALSE(received);
  EXPECT_EQ(received.error().code, ErrorCode::kTimeout);
  EXPECT_THAT(received.error().message, testing::HasSubstr("sent no byte for 5ms"));
  // After a timeout receiving may go on.
  ASSERT_TRUE(send_bytes(*pair_.far, random_bytes(10)));
  EXPECT_TRUE(receive_all(*pair_.near, one_part(buffer)));

  const Status sent = pair_.near->send(many_parts(64), kShort);
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::kTimeout);
  EXPECT_FALSE(sent.error().remedy.empty());
}

TEST_P(SocketChannel, ASlowPeerIsNoTimeoutAsLongAsBytesMove) {
  constexpr auto kIdle = 500ms;
  constexpr std::size_t kMegabytes = 128;
  std::jthread sender([&] { EXPECT_TRUE(pair_.near->send(many_parts(kMegabytes), kIdle)); });
  // The sender is held up longer than kIdle altogether, but never that long without a byte.
  std::vector<std::byte> buffer(1 << 20);
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t total = 0; total < kMegabytes << 20;) {
    if (std::chrono::steady_clock::now() - start < 2 * kIdle) std::this_thread::sleep_for(20ms);
    const auto count = pair_.far->receive(one_part(buffer), kLong);
    ASSERT_TRUE(count);
    total += *count;
  }
}

TEST_P(SocketChannel, InterruptEndsAWaitingReceiveAndReceivingMayGoOn) {
  std::vector<std::byte> buffer(3);
  std::jthread receiver([&] {
    const auto count = pair_.near->receive(one_part(buffer), kLong);
    ASSERT_FALSE(count);
    EXPECT_EQ(count.error().code, ErrorCode::kCancelled);
  });
  pair_.near->interrupt();
  receiver.join();
  // Still interrupted, though there is something to read.
  ASSERT_TRUE(send_bytes(*pair_.far, random_bytes(3)));
  EXPECT_EQ(pair_.near->receive(one_part(buffer), kLong).error().code, ErrorCode::kCancelled);
  EXPECT_EQ(send_bytes(*pair_.near, buffer).error().code, ErrorCode::kCancelled);
  pair_.near->resume_after_interrupt();
  EXPECT_TRUE(receive_all(*pair_.near, one_part(buffer)));
  EXPECT_EQ(buffer, random_bytes(3));
}

TEST_P(SocketChannel, InterruptEndsAWaitingSend) {
  std::jthread sender([&] {
    EXPECT_EQ(pair_.near->send(many_parts(64), kLong).error().code, ErrorCode::kCancelled);
  });
  pair_.near->interrupt();
}

TEST_P(SocketChannel, ShutdownEndsWaitingCallsAndLaterOnes) {
  std::jthread sender([&] {
    EXPECT_EQ(pair_.near->send(many_parts(64), kLong).error().code, ErrorCode::kLinkLost);
  });
  std::jthread receiver([&] { EXPECT_EQ(read_to_end(*pair_.near), ErrorCode::kLinkLost); });
  pair_.near->shutdown();
  sender.join();
  receiver.join();
  EXPECT_EQ(send_bytes(*pair_.near, random_bytes(1)).error().code, ErrorCode::kLinkLost);
  EXPECT_EQ(read_to_end(*pair_.near), ErrorCode::kLinkLost);
}

TEST_P(SocketChannel, AClosedPeerIsTheEndForReceiversAndALossForSenders) {
  ASSERT_TRUE(send_bytes(*pair_.far, random_bytes(1000)));
  pair_.far.reset();
  EXPECT_EQ(read_to_end(*pair_.near), std::nullopt);
  // The first bytes may still leave; SIGPIPE would end this process.
  const Status sent = pair_.near->send(many_parts(64), kLong);
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::kLinkLost);
  EXPECT_FALSE(sent.error().remedy.empty());
}

TEST_P(SocketChannel, APeerThatDiesWithUnreadBytesEndsAWaitingSend) {
  std::jthread sender([&] {
    EXPECT_EQ(pair_.near->send(many_parts(64), kLong).error().code, ErrorCode::kLinkLost);
  });
  pair_.far.reset();
}

TEST_P(SocketChannel, WhatThereIsRoomForLeavesThoughThePeerReadsNothing) {
  for (const std::size_t bytes : {100u, 1500u, 9000u}) {
    const auto frame = random_bytes(bytes);
    std::size_t sent = 0;
    while (sent < (64u << 20) && pair_.near->has_room(bytes)) {
      ASSERT_TRUE(pair_.near->send(one_part(frame), 0ms)) << sent;
      sent += bytes;
    }
    EXPECT_GT(sent, 0u) << bytes;
    EXPECT_LT(sent, 64u << 20) << "it is not said that there is room for all";
    std::vector<std::byte> buffer(1 << 20);
    for (std::size_t got = 0; got < sent;) {
      const auto some = pair_.far->receive(one_part(buffer), kLong);
      ASSERT_TRUE(some);
      got += *some;
    }
    const auto give_up = std::chrono::steady_clock::now() + kLong;
    while (!pair_.near->has_room(bytes) && std::chrono::steady_clock::now() < give_up) {
      std::this_thread::yield();
    }
    EXPECT_TRUE(pair_.near->has_room(bytes));
  }
}

TEST_P(SocketChannel, UnsentBytesFallToZeroOnceThePeerHasThem) {
  EXPECT_EQ(pair_.near->unsent_bytes(), 0u);
  EXPECT_FALSE(pair_.near->send(many_parts(64), kShort));
  // A send without a copy that fails takes back what the peer does not have.
  if (!std::get<Means>(GetParam()).zero_copy) {
    EXPECT_GT(pair_.near->unsent_bytes(), 0u);
  }
  std::vector<std::byte> buffer(1 << 20);
  const auto give_up = std::chrono::steady_clock::now() + kLong;
  while (pair_.near->unsent_bytes() > 0 && std::chrono::steady_clock::now() < give_up) {
    (void)pair_.far->receive(one_part(buffer), 1ms);
  }
  EXPECT_EQ(pair_.near->unsent_bytes(), 0u);
}

TEST_P(SocketChannel, ABufferIsItsOwnersAgainOnceAnInterruptedReceiveHasEnded) {
  const auto bytes = random_bytes(100'000);
  std::vector<std::byte> received;
  std::vector<std::byte> buffer(1000);
  for (std::size_t sent = 0; received.size() < bytes.size();) {
    std::jthread interrupter([&] { pair_.near->interrupt(); });
    // Half of the rounds have something to receive while the interrupt is on its way.
    if (sent == received.size()) {
      ASSERT_TRUE(send_bytes(*pair_.far, std::span(bytes).subspan(sent, 500)));
      sent += 500;
    }
    const auto count = pair_.near->receive(one_part(buffer), kLong);
    interrupter.join();
    if (count) {
      received.insert(received.end(), buffer.begin(), buffer.begin() + std::ptrdiff_t(*count));
    } else {
      ASSERT_EQ(count.error().code, ErrorCode::kCancelled);
      // What comes from now on is not for this buffer.
      std::fill(buffer.begin(), buffer.end(), std::byte{0xA5});
      if (sent < bytes.size()) {
        ASSERT_TRUE(send_bytes(*pair_.far, std::span(bytes).subspan(sent, 500)));
        sent += 500;
      }
      EXPECT_EQ(std::count(buffer.begin(), buffer.end(), std::byte{0xA5}), 1000);
    }
    pair_.near->resume_after_interrupt();
  }
  EXPECT_TRUE(received == bytes);
}

TEST_P(SocketChannel, WhatIsWrittenAfterAnInterruptedSendIsNotSent) {
  std::vector<std::byte> bytes(8 << 20, std::byte{1});
  // Full, so that the next send waits.
  EXPECT_EQ(pair_.near->send(many_parts(64), kShort).error().code, ErrorCode::kTimeout);
  std::jthread sender([&] {
    EXPECT_FALSE(send_bytes(*pair_.near, bytes));
    std::fill(bytes.begin(), bytes.end(), std::byte{2});
  });
  std::vector<std::byte> buffer(1 << 20);
  (void)pair_.far->receive(one_part(buffer), kLong);
  pair_.near->interrupt();
  sender.join();
  pair_.near->shutdown();
  for (bool open = true; open;) {
    const auto count = pair_.far->receive(one_part(buffer), kLong);
    open = count && *count > 0;
    if (!open) break;
    EXPECT_EQ(std::count(buffer.begin(), buffer.begin() + std::ptrdiff_t(*count), std::byte{2}), 0);
  }
}

TEST_P(SocketChannel, ThreadsThatComeAndGoMayShareIt) {
  const auto bytes = random_bytes(100'000);
  for (int i = 0; i < 20; ++i) {
    std::vector<std::byte> received(bytes.size());
    std::jthread([&] { EXPECT_TRUE(send_bytes(*pair_.near, bytes)); }).join();
    std::jthread([&] { EXPECT_TRUE(receive_all(*pair_.far, one_part(received))); }).join();
    ASSERT_TRUE(received == bytes);
  }
  // Its first thread is gone, and still another one is woken.
  std::jthread receiver([&] { EXPECT_EQ(read_to_end(*pair_.far), ErrorCode::kCancelled); });
  pair_.far->interrupt();
}

TEST_P(SocketChannel, NamesItsPeer) {
  EXPECT_FALSE(pair_.near->peer().empty());
  EXPECT_FALSE(pair_.far->peer().empty());
}

TEST(SocketChannelDeathTest, ReceivingIntoNothingIsAProgrammersError) {
  ChannelPair pair = over_pair({});
  EXPECT_DEATH((void)pair.near->receive({}, kShort), "check failed");
}

TEST(MakeSocketChannel, TakesAConnectedSocketOver) {
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
  auto near = make_socket_channel(fds[0]);
  auto far = make_socket_channel(fds[1]);
  ASSERT_TRUE(near);
  ASSERT_TRUE(far);
  EXPECT_EQ(::fcntl(fds[0], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  ASSERT_TRUE(send_bytes(**near, random_bytes(5)));
  std::vector<std::byte> received(5);
  ASSERT_TRUE(receive_all(**far, one_part(received)));
  EXPECT_EQ(received, random_bytes(5));
  near->reset();
  EXPECT_EQ(::fcntl(fds[0], F_GETFD), -1);
}

TEST(MakeSocketChannel, RefusesAndClosesEverythingElse) {
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds), 0);
  const Fd other_end(fds[1]);
  const int unconnected = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int file = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int fd : {fds[0], unconnected, file}) {
    const auto channel = make_socket_channel(fd);
    ASSERT_FALSE(channel);
    EXPECT_EQ(channel.error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ(::fcntl(fd, F_GETFD), -1);
  }
  EXPECT_FALSE(make_socket_channel(-1));
}

}  // namespace
}  // namespace migrate::test
