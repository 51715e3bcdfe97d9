// What a channel tells of its link, and takes as its pace.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <limits>
#include <thread>

#include "base/fd.hpp"
#include "tests/transport/channel_io.hpp"

namespace migrate::test {
namespace {

/// A connected TCP socket of this host, and its other end.
std::pair<Fd, Fd> tcp_pair() {
  const Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof address;
  EXPECT_EQ(::bind(listener.get(), generic, size), 0);
  EXPECT_EQ(::listen(listener.get(), 1), 0);
  EXPECT_EQ(::getsockname(listener.get(), generic, &size), 0);
  Fd near(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(near.get(), generic, size), 0);
  Fd far(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  return {std::move(near), std::move(far)};
}

template <typename Value>
Value option_of(int fd, int level, int name) {
  Value value{};
  socklen_t size = sizeof value;
  EXPECT_EQ(::getsockopt(fd, level, name, &value, &size), 0);
  EXPECT_EQ(size, sizeof value);
  return value;
}

std::uint64_t pacing_of(int fd) {
  return option_of<std::uint64_t>(fd, SOL_SOCKET, SO_MAX_PACING_RATE);
}
std::uint32_t unsent_of(int fd) {
  return option_of<std::uint32_t>(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT);
}

TEST(TcpPace, ReachesTheSocketAndIsTakenBack) {
  auto [near, far] = tcp_pair();
  const Fd look(::dup(near.get()));
  const std::uint32_t unsent = unsent_of(look.get());
  auto channel = make_socket_channel(near.release());
  ASSERT_TRUE(channel);
  // More than 32 bits hold: 40 Gbit/s.
  (*channel)->set_pace({5'000'000'000, 128 << 10});
  EXPECT_EQ(pacing_of(look.get()), 5'000'000'000u);
  EXPECT_EQ(unsent_of(look.get()), 128u << 10);
  (*channel)->set_pace({});
  EXPECT_EQ(pacing_of(look.get()), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(unsent_of(look.get()), unsent);
}

TEST(TcpLinkState, TellsWhatCameThrough) {
  auto [one, other] = tcp_pair();
  auto near = make_socket_channel(one.release());
  auto far = make_socket_channel(other.release());
  ASSERT_TRUE(near && far);
  std::vector<std::byte> into(8 << 20);
  std::jthread reader([&] { EXPECT_TRUE(receive_all(**far, one_part(into))); });
  ASSERT_TRUE((*near)->send(many_parts(8), kLong));
  reader.join();
  const LinkState link = (*near)->link_state();
  EXPECT_GT(link.delivered_bytes_per_s, 0u);
  EXPECT_GT(link.round_trip.count(), 0);
  EXPECT_GT(link.round_trip_min.count(), 0);
}

TEST(UnixLinkState, IsUnknownAndAPaceDoesNoHarm) {
  auto pair = make_channel_pair();
  ASSERT_TRUE(pair);
  pair->first->set_pace({1, 1});
  std::vector<std::byte> into(1 << 20);
  std::jthread reader([&] { EXPECT_TRUE(receive_all(*pair->second, one_part(into))); });
  EXPECT_TRUE(pair->first->send(many_parts(1), kLong));
  reader.join();
  const LinkState link = pair->first->link_state();
  EXPECT_EQ(link.delivered_bytes_per_s, 0u);
  EXPECT_EQ(link.round_trip.count(), 0);
}

}  // namespace
}  // namespace migrate::test
