// A tree's network while the tree leaves: what comes waits, handshakes come to an end first, and it
// all goes on, here or elsewhere.
#include "adapters/containers/network/leaving_network.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <thread>

#include "tests/containers/network/pair_bed.hpp"

namespace migrate::containers {
namespace {

class LeavingNetworkTest : public PairTest {
 protected:
  void SetUp() override {
    PairTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    untouched_ = filters(guest_, "eth0");
    ASSERT_NO_FATAL_FAILURE(open());
    receiver_ = open_receiver();
  }
  void open() {
    host_.run([&] {
      const Fd there = space(guest_);
      auto network = LeavingNetwork::open(there.get(), "port");
      ASSERT_TRUE(network) << network.error().to_text();
      network_ = *std::move(network);
    });
  }
  Fd listen() const {
    Fd fd;
    guest_.run([&] {
      fd.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_in at{};
      at.sin_family = AF_INET;
      at.sin_port = htons(kPort);
      ASSERT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof(at)), 0);
      ASSERT_EQ(::listen(fd.get(), 16), 0);
    });
    return fd;
  }
  /// Not waited for.
  Fd connect() const {
    Fd fd;
    host_.run([&] {
      fd.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      sockaddr_in to{};
      to.sin_family = AF_INET;
      to.sin_port = htons(kPort);
      ::inet_pton(AF_INET, kGuestIp, &to.sin_addr);
      ASSERT_TRUE(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0 ||
                  errno == EINPROGRESS);
    });
    return fd;
  }
  static bool connected(const Fd& fd, int patience_ms) {
    pollfd ready{fd.get(), POLLOUT, 0};
    return ::poll(&ready, 1, patience_ms) == 1 && (ready.revents & POLLERR) == 0;
  }

  std::unique_ptr<LeavingNetwork> network_;
  std::string untouched_;
  Fd receiver_;
};

TEST_F(LeavingNetworkTest, ATreeThatGoesOnHereGetsWhatCameMeanwhile) {
  ASSERT_TRUE(network_->settle());
  send_numbers(0, 5);
  EXPECT_EQ(numbers_at(receiver_, 5), numbers(0, 5)) << "it runs still";
  ASSERT_TRUE(network_->hold());
  EXPECT_TRUE(network_->covers_all());
  send_numbers(5, 100);
  EXPECT_EQ(numbers_at(receiver_, 0), numbers(0, 0));
  // Some were on their way to the target already.
  auto frames = network_->take_waiting(10, 1 << 20);
  ASSERT_TRUE(frames);
  ASSERT_EQ(frames->size(), 10u);
  network_->give_back(*std::move(frames));
  network_->go_on();
  EXPECT_EQ(numbers_at(receiver_, 100), numbers(5, 100));
  EXPECT_EQ(filters(guest_, "eth0"), untouched_);
  // And a second time.
  ASSERT_TRUE(network_->settle());
  ASSERT_TRUE(network_->hold());
  send_numbers(105, 5);
  network_.reset();
  EXPECT_EQ(numbers_at(receiver_, 5), numbers(105, 5)) << "its end lets the tree go on, too";
  EXPECT_EQ(filters(guest_, "eth0"), untouched_);
}

TEST_F(LeavingNetworkTest, ATreeThatHasLeftIsNotAnsweredFor) {
  ASSERT_TRUE(network_->settle());
  ASSERT_TRUE(network_->hold());
  send_numbers(0, 5);
  host_.must("ip link set port down");
  network_->end();
  network_.reset();
  EXPECT_EQ(numbers_at(receiver_, 0), numbers(0, 0));
  EXPECT_EQ(filters(guest_, "eth0"), untouched_);
}

TEST_F(LeavingNetworkTest, WhereItsOwnerIsNotKnownItStaysShut) {
  ASSERT_TRUE(network_->settle());
  ASSERT_TRUE(network_->hold());
  network_->leave_closed();
  network_.reset();
  send_numbers(0, 5);
  EXPECT_EQ(numbers_at(receiver_, 0), numbers(0, 0));
  EXPECT_NE(filters(guest_, "eth0"), untouched_);
}

TEST_F(LeavingNetworkTest, ConnectionsThatWaitAreAcceptedFirstAndNewOnesAfterwards) {
  const Fd listener = listen();
  const Fd early = connect();
  ASSERT_TRUE(connected(early, 60'000));
  // A program that is late, but comes.
  std::atomic<bool> settled{false};
  std::atomic<bool> accepted_before{false};
  std::thread program([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const bool before = !settled.load();
    const Fd one(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    accepted_before = before && one.valid();
    char byte = 0;
    EXPECT_EQ(::read(one.get(), &byte, 1), 1);
  });
  ASSERT_TRUE(network_->settle());
  settled = true;
  const Fd late = connect();
  ASSERT_EQ(::write(early.get(), "x", 1), 1) << "what is there goes on";
  program.join();
  EXPECT_TRUE(accepted_before);
  EXPECT_FALSE(connected(late, 0));
  ASSERT_TRUE(network_->hold());
  network_->go_on();
  EXPECT_TRUE(connected(late, 60'000));
}

TEST_F(LeavingNetworkTest, AProgramThatAcceptsNothingIsNotWaitedForLong) {
  const Fd listener = listen();
  const Fd early = connect();
  ASSERT_TRUE(connected(early, 60'000));
  ASSERT_TRUE(network_->settle()) << "CRIU says so";
  network_->go_on();
}

TEST_F(LeavingNetworkTest, ConnectionsWithinAreForCriuToLock) {
  const Fd listener = listen();
  EXPECT_TRUE(network_->covers_all());
  Fd inner;
  guest_.run([&] {
    inner.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(kPort);
    ::inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    ASSERT_EQ(::connect(inner.get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)), 0);
  });
  EXPECT_FALSE(network_->covers_all());
}

}  // namespace
}  // namespace migrate::containers
