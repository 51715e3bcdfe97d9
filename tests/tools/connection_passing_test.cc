#include "tools/migrate/connection_passing.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <thread>

#include "tests/tools/scratch_folder.hpp"
#include "tools/migrate/begun_acceptor.hpp"

namespace migrate::tool {
namespace {

using testing::ScratchFolder;
constexpr std::chrono::seconds kPatience{20};

struct Pair {
  Fd near;
  Fd far;
};

Pair make_pair() {
  int ends[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  return {Fd(ends[0]), Fd(ends[1])};
}

std::string receive_text(Channel& channel) {
  std::array<char, 64> bytes{};
  const iovec part{bytes.data(), bytes.size()};
  const auto got = channel.receive(std::span(&part, 1), kPatience);
  return got ? std::string(bytes.data(), *got) : got.error().to_text();
}

void send_text(const Fd& fd, const char* text) {
  ASSERT_EQ(send(fd.get(), text, std::strlen(text), 0), static_cast<ssize_t>(std::strlen(text)));
}

TEST(ConnectionPassing, TheConnectionThatBeganComesFirstThenThoseThatArePassed) {
  const ScratchFolder scratch;
  const auto lanes = scratch.path() / "session.lanes";
  Pair first = make_pair();
  Pair second = make_pair();
  auto others = PassedAcceptor::open(lanes, "127.0.0.1:1");
  ASSERT_TRUE(others);
  auto begun = make_socket_channel(first.far.release());
  ASSERT_TRUE(begun);
  BegunAcceptor acceptor(*std::move(begun), *std::move(others));
  EXPECT_EQ(acceptor.address(), "127.0.0.1:1");
  send_text(second.near, "second");
  EXPECT_EQ(pass_connection(lanes, second.far.get()), PassResult::kPassed);
  second.far.reset();
  send_text(first.near, "first");

  const auto one = acceptor.accept(kPatience);
  ASSERT_TRUE(one);
  EXPECT_EQ(receive_text(**one), "first");
  const auto two = acceptor.accept(kPatience);
  ASSERT_TRUE(two);
  EXPECT_EQ(receive_text(**two), "second");
}

TEST(ConnectionPassing, WaitsNoLongerThanToldAndEndsWhenInterrupted) {
  const ScratchFolder scratch;
  auto acceptor = PassedAcceptor::open(scratch.path() / "s.lanes", "x");
  ASSERT_TRUE(acceptor);
  EXPECT_EQ((*acceptor)->accept(std::chrono::milliseconds(1)).error().code, ErrorCode::kTimeout);
  std::thread other([&] { (*acceptor)->interrupt(); });
  EXPECT_EQ((*acceptor)->accept(kPatience).error().code, ErrorCode::kCancelled);
  other.join();
}

TEST(ConnectionPassing, ADeadSessionIsNobodyAndItsSocketGoes) {
  const ScratchFolder scratch;
  const auto lanes = scratch.path() / "s.lanes";
  const Pair pair = make_pair();
  EXPECT_EQ(pass_connection(lanes, pair.far.get()), PassResult::kNobody);
  {
    const auto acceptor = PassedAcceptor::open(lanes, "x");
    // As after kill -9: the socket's file stays.
    std::filesystem::create_hard_link(lanes, scratch.path() / "kept");
  }
  std::filesystem::rename(scratch.path() / "kept", lanes);
  EXPECT_EQ(pass_connection(lanes, pair.far.get()), PassResult::kNobody);
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

TEST(ConnectionPassing, ASlowSessionIsFullNotLost) {
  const ScratchFolder scratch;
  const auto lanes = scratch.path() / "s.lanes";
  const auto acceptor = PassedAcceptor::open(lanes, "x");
  ASSERT_TRUE(acceptor);
  const Pair pair = make_pair();
  PassResult result = PassResult::kPassed;
  for (int i = 0; i < 10'000 && result == PassResult::kPassed; ++i) {
    result = pass_connection(lanes, pair.far.get());
  }
  EXPECT_EQ(result, PassResult::kFull);
  EXPECT_TRUE((*acceptor)->accept(kPatience));
}

TEST(ConnectionPassing, ASessionHasOneProcess) {
  const ScratchFolder scratch;
  const auto lanes = scratch.path() / "s.lanes";
  const auto first = PassedAcceptor::open(lanes, "x");
  ASSERT_TRUE(first);
  EXPECT_FALSE(PassedAcceptor::open(lanes, "x"));
  const Pair pair = make_pair();
  EXPECT_EQ(pass_connection(lanes, pair.far.get()), PassResult::kPassed);
}

}  // namespace
}  // namespace migrate::tool
