// Connections that somebody else made: given out once each, in their order, and owned from then on.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <functional>

#include "base/fd.hpp"
#include "tests/transport/channel_io.hpp"

namespace migrate::test {
namespace {

using testing::HasSubstr;

struct Sockets {
  explicit Sockets(int type = SOCK_STREAM) {
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends.data()), 0);
    near = Fd(ends[0]);
    far = Fd(ends[1]);
  }
  Fd near, far;
};

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

TEST(InheritedConnector, GivesEachConnectionOutOnceInTheirOrder) {
  std::array<Sockets, 3> sockets;
  std::vector<int> fds;
  for (Sockets& pair : sockets) fds.push_back(pair.near.release());
  const auto connector = make_inherited_connector(fds);
  connector->set_session("0123");
  EXPECT_THAT(connector->peer(), HasSubstr("inherited"));
  std::vector<std::unique_ptr<Channel>> channels;
  for (Sockets& pair : sockets) {
    auto channel = connector->connect(kLong);
    ASSERT_TRUE(channel) << channel.error().to_text();
    auto other = make_socket_channel(pair.far.release());
    ASSERT_TRUE(other);
    const auto bytes = random_bytes(1000, channels.size() + 1);
    ASSERT_TRUE(send_bytes(**channel, bytes));
    std::vector<std::byte> got(bytes.size());
    ASSERT_TRUE(receive_all(**other, one_part(got)));
    EXPECT_TRUE(got == bytes);
    channels.push_back(*std::move(channel));
  }
  const auto none = connector->connect(kLong);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kConnectFailed);
  EXPECT_THAT(none.error().message, HasSubstr("all 3"));
}

TEST(InheritedConnector, WithoutConnectionsItHasNoneToGive) {
  EXPECT_EQ(make_inherited_connector({})->connect(kLong).error().code, ErrorCode::kConnectFailed);
}

struct NoConnection {
  const char* name;
  std::function<int()> make;
};

const NoConnection kNoConnections[] = {
    {"NoDescriptorAtAll", [] { return -1; }},
    {"AClosedDescriptor", [] { return Fd(::dup(STDIN_FILENO)).get(); }},
    {"AFile", [] { return ::open("/dev/null", O_RDWR | O_CLOEXEC); }},
    {"ADatagramSocket", [] { return Sockets(SOCK_DGRAM).near.release(); }},
};

class NoConnections : public testing::TestWithParam<NoConnection> {};

// The others are still good: a caller may have given one too many.
TEST_P(NoConnections, AreToldByConnectAndTakenOverAllTheSame) {
  Sockets good;
  const int bad = GetParam().make();
  {
    const auto connector = make_inherited_connector({bad, good.near.release()});
    const auto channel = connector->connect(kLong);
    ASSERT_FALSE(channel);
    EXPECT_EQ(channel.error().code, ErrorCode::kInvalidArgument) << channel.error().to_text();
    EXPECT_TRUE(connector->connect(kLong));
  }
  EXPECT_FALSE(is_open(bad));
}

INSTANTIATE_TEST_SUITE_P(All, NoConnections, testing::ValuesIn(kNoConnections),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(InheritedConnector, ClosesWhatItHasNotGivenOut) {
  Sockets given;
  Sockets kept;
  const int given_fd = given.near.get();
  const int kept_fd = kept.near.get();
  std::unique_ptr<Channel> channel;
  {
    const auto connector = make_inherited_connector({given.near.release(), kept.near.release()});
    auto connected = connector->connect(kLong);
    ASSERT_TRUE(connected);
    channel = *std::move(connected);
  }
  EXPECT_TRUE(is_open(given_fd));
  EXPECT_FALSE(is_open(kept_fd));
  auto other = make_socket_channel(kept.far.release());
  ASSERT_TRUE(other);
  EXPECT_EQ(read_to_end(**other), std::nullopt);
  channel.reset();
  EXPECT_FALSE(is_open(given_fd));
}

TEST(InheritedConnector, AConnectionWhosePeerIsGoneIsGivenOutAndAtItsEnd) {
  Sockets sockets;
  sockets.far.reset();
  auto channel = make_inherited_connector({sockets.near.release()})->connect(kLong);
  ASSERT_TRUE(channel);
  EXPECT_EQ(read_to_end(**channel), std::nullopt);
}

TEST(InheritedConnector, AnInterruptLosesNoConnection) {
  Sockets sockets;
  const auto connector = make_inherited_connector({sockets.near.release()});
  connector->interrupt();
  EXPECT_EQ(connector->connect(kLong).error().code, ErrorCode::kCancelled);
  EXPECT_EQ(connector->connect(kLong).error().code, ErrorCode::kCancelled);
  connector->resume_after_interrupt();
  EXPECT_TRUE(connector->connect(kLong));
}

}  // namespace
}  // namespace migrate::test
