// A tree's network where the tree arrives: shut until it runs, and nothing said until then is lost.
#include "adapters/containers/network/arriving_network.hpp"

#include <gmock/gmock.h>

#include <thread>

#include "tests/containers/network/pair_bed.hpp"

namespace migrate::containers {
namespace {

class ArrivingNetworkTest : public PairTest {
 protected:
  void SetUp() override {
    PairTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    host_.must("ip link set port down");
    untouched_ = state();
    receiver_ = open_receiver();
  }
  /// Filters at both ends, and whether the port is up.
  std::string state() const {
    return filters(host_, "port") + filters(guest_, "eth0") +
           host_.sh("ip -br link show port | grep -o '[<,]UP[,>]'; echo -n");
  }
  void open() {
    host_.run([&] {
      auto network = ArrivingNetwork::open("port", guest_.path());
      ASSERT_TRUE(network) << network.error().to_text();
      network_ = *std::move(network);
    });
    // It was forgotten when the port went down.
    host_.must("ip neighbour replace 10.79.0.2 dev port lladdr 02:00:00:00:00:02");
  }
  void close() {
    host_.run([&] { network_.reset(); });
  }

  std::unique_ptr<ArrivingNetwork> network_;
  std::string untouched_;
  Fd receiver_;
};

TEST_F(ArrivingNetworkTest, WhatIsSaidBeforeIsHeardWhenTheTreeRuns) {
  ASSERT_NO_FATAL_FAILURE(open());
  const Fd here = space(host_);
  auto heard = HeldFrames::open(here.get(), peer().port);
  ASSERT_TRUE(heard);
  send_numbers(0, 5);
  EXPECT_EQ(numbers_at(receiver_, 0), numbers(0, 0)) << "nobody is there to have it";
  // From another restore, that failed.
  guest_.sh("ping -c 1 -W 1 10.79.0.1");
  network_->begin();
  const std::string quiet = guest_.sh("ip -s link show eth0 | tail -n 1");
  // The first is ARP's, the answer to which would be let in.
  std::thread said([&] { guest_.sh("ping -c 1 -W 20 10.79.0.1"); });
  expect_soon([&] { return guest_.sh("ip -s link show eth0 | tail -n 1") != quiet; },
              "something to be said");
  const std::string before = host_.sh("cat /proc/net/snmp | grep ^Icmp: | tail -n 1");
  ASSERT_TRUE(network_->release());
  said.join();
  EXPECT_NE(host_.sh("cat /proc/net/snmp | grep ^Icmp: | tail -n 1"), before);
  send_numbers(5, 5);
  EXPECT_EQ(numbers_at(receiver_, 5), numbers(5, 5));
  // What came at the source.
  EXPECT_FALSE(network_->deliver({1, FrameBytes(60)})) << "there is one card";
  EXPECT_TRUE(network_->deliver({0, FrameBytes(60)}));
  close();
  EXPECT_THAT(state(), ::testing::HasSubstr("UP")) << "it is the tree's";
  EXPECT_EQ(filters(host_, "port") + filters(guest_, "eth0"), untouched_);
}

TEST_F(ArrivingNetworkTest, WithoutATreeAllIsAsBefore) {
  ASSERT_NO_FATAL_FAILURE(open());
  EXPECT_NE(state(), untouched_);
  close();
  EXPECT_EQ(state(), untouched_);
  // After a receiver that was killed.
  ASSERT_NO_FATAL_FAILURE(open());
  close();
  EXPECT_EQ(state(), untouched_);
}

}  // namespace
}  // namespace migrate::containers
