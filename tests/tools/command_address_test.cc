// Guests that move by other ways than TCP, and by other means: what ADDRESS and --io accept.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <csignal>
#include <list>
#include <memory>
#include <thread>

#include "base/event_fd.hpp"
#include "tests/tools/command_host.hpp"
#include "tests/transport/channel_io.hpp"
#include "transport/listening_socket.hpp"
#include "transport/socket_address.hpp"

namespace migrate::tool {
namespace {

using testing::CommandProcess;
using testing::Host;
using testing::Process;
using testing::wait_for;
using testing::Words;

constexpr const char* kWriter = "writer:rate=20M,set=8M";

/// What `ssh -L PORT:SOCKET` does: takes TCP connections, carries each to a UNIX socket.
class Forwarder {
 public:
  explicit Forwarder(std::string path)
      : path_(std::move(path)), listening_(*listen_tcp("127.0.0.1", "0")) {
    thread_ = std::jthread([this] { run(); });
  }
  ~Forwarder() { stop_.set(); }
  [[nodiscard]] const std::string& address() const { return listening_.address; }
  [[nodiscard]] int carried() const { return carried_; }

 private:
  void run() {
    std::list<std::jthread> carriers;
    for (;;) {
      std::array<pollfd, 2> waits = {pollfd{stop_.fd(), POLLIN, 0},
                                     pollfd{listening_.socket.get(), POLLIN, 0}};
      if (::poll(waits.data(), waits.size(), -1) < 0) continue;
      if (waits[0].revents != 0) return;
      Fd from(::accept4(listening_.socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
      const auto address = unix_address(path_);
      Fd to(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      if (!from || ::connect(to.get(), address->get(), address->length) != 0) continue;
      ++carried_;
      const auto both = std::make_shared<std::pair<Fd, Fd>>(std::move(from), std::move(to));
      carriers.emplace_back([both] { carry(both->first.get(), both->second.get()); });
      carriers.emplace_back([both] { carry(both->second.get(), both->first.get()); });
    }
  }
  static void carry(int from, int to) {
    std::array<char, 65536> bytes;
    for (;;) {
      const ssize_t got = ::recv(from, bytes.data(), bytes.size(), 0);
      if (got <= 0) break;
      for (ssize_t sent = 0; sent < got;) {
        const ssize_t now = ::send(to, bytes.data() + sent, std::size_t(got - sent), MSG_NOSIGNAL);
        if (now <= 0) break;
        sent += now;
      }
    }
    ::shutdown(to, SHUT_WR);
  }

  const std::string path_;
  ListeningSocket listening_;
  EventFd stop_ = *EventFd::create();
  std::atomic<int> carried_{0};
  std::jthread thread_;
};

class CommandAddressTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::kvm_is_here()) GTEST_SKIP() << "needs /dev/kvm";
  }
  [[nodiscard]] std::string socket() const { return (b_.folder() / "in.sock").string(); }

  /// The guest of a_ goes to `address`, runs there and is whole; then it is stopped there.
  void move(const std::string& address, const Words& more = {}) {
    const Process source = a_.run(kWriter);
    const std::uint64_t before = a_.work();
    Words words = {"send", "vm:web", address, "--json", "--verify", "full"};
    words.insert(words.end(), more.begin(), more.end());
    const Process send = a_.start(words);
    ASSERT_EQ(send->wait(), 0) << send->out() << send->err();
    const Json report = send->json();
    EXPECT_EQ(report["outcome"], "done");
    EXPECT_EQ(report["integrity"]["full"], "equal");
    EXPECT_EQ(source->wait(), 0) << source->err();
    EXPECT_TRUE(wait_for([&] { return b_.work() > before; }));
    EXPECT_EQ(b_.errors(), 0u);
    EXPECT_EQ(b_.code({"stop", "web"}), 0);
    EXPECT_TRUE(wait_for([&] { return !b_.answers(); }));
  }

  Host a_;
  Host b_;
};

TEST_F(CommandAddressTest, ByAUnixSocketWithOneSession) {
  std::string address;
  const Process target = b_.listen({"--once"}, address, "unix:" + socket());
  EXPECT_EQ(address, "unix:" + socket());
  move(address);
  EXPECT_EQ(target->wait(), 0) << target->err();
  EXPECT_FALSE(std::filesystem::exists(socket()));
}

TEST_F(CommandAddressTest, ByAUnixSocketThatStays) {
  std::string address;
  const Process target = b_.listen({}, address, "unix:" + socket());
  move(address);
  move(address);
  target->signal(SIGTERM);
  EXPECT_EQ(target->wait(), 0) << target->err();
  EXPECT_FALSE(std::filesystem::exists(socket()));
}

TEST_F(CommandAddressTest, ThroughATunnelWithOneLane) {
  std::string address;
  const Process target = b_.listen({"--once"}, address, "unix:" + socket());
  const Forwarder forwarder(socket());
  move(forwarder.address(), {"--lanes", "1"});
  EXPECT_EQ(forwarder.carried(), 2) << "one connection for control, one for the lane";
  EXPECT_EQ(target->wait(), 0) << target->err();
}

TEST_F(CommandAddressTest, ByIoUringAtBothSides) {
  if (!test::uring_works()) GTEST_SKIP() << test::kNoUring;
  std::string address;
  const Process target = b_.listen({"--once", "--io", "uring"}, address);
  move(address, {"--io", "uring", "--lanes", "2"});
  EXPECT_EQ(target->wait(), 0) << target->err();
  EXPECT_EQ(target->err().find("without io_uring"), std::string::npos) << target->err();
}

TEST_F(CommandAddressTest, ByIoUringToAListenerThatStays) {
  if (!test::uring_works()) GTEST_SKIP() << test::kNoUring;
  std::string address;
  const Process target = b_.listen({"--io", "uring"}, address, "unix:" + socket());
  move(address, {"--io", "uring"});
}

TEST_F(CommandAddressTest, WithoutCopiesUntilTheKernelCopies) {
  std::string address;
  const Process target = b_.listen({"--once"}, address);
  move(address, {"--zerocopy", "on"});
  EXPECT_EQ(target->wait(), 0) << target->err();
}

TEST_F(CommandAddressTest, ByASocketThatAServiceManagerOpened) {
  for (const Words& once : {Words{"--once"}, Words{}}) {
    auto listening = listen_tcp("127.0.0.1", "0");
    ASSERT_TRUE(listening);
    // The child finds it under the same number.
    ASSERT_EQ(::fcntl(listening->socket.get(), F_SETFD, 0), 0);
    std::string address;
    const Process target =
        b_.listen(once, address, "fd:" + std::to_string(listening->socket.get()));
    EXPECT_EQ(address, listening->address);
    move(address);
  }
}

TEST_F(CommandAddressTest, WhatCannotBeIsRefusedBeforeAnythingBegins) {
  EXPECT_EQ(a_.code({"recv", "--listen", "fd:0"}), 2);
  EXPECT_EQ(a_.code({"recv", "--listen", "unix:relative"}), 2);
  EXPECT_EQ(a_.code({"recv", "--listen", "127.0.0.1:0", "--io", "fast"}), 2);
  const Process source = a_.run("idle");
  for (const char* target : {"fd:3", "unix:x", "vsock:4444", "127.0.0.1:0"}) {
    EXPECT_EQ(a_.code({"send", "vm:web", target}), 2) << target;
  }
  const Json nobody = a_.json({"send", "vm:web", "unix:" + socket()});
  EXPECT_EQ(nobody["outcome"], "failed");
  EXPECT_EQ(a_.state(), "running");
  EXPECT_EQ(a_.code({"stop", "web"}), 0);
}

}  // namespace
}  // namespace migrate::tool
