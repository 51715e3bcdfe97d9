// Network takeover by the command: announcing by hand, the hook and the report of a real migration.
#include <gtest/gtest.h>

#include <fstream>
#include <optional>
#include <sstream>

#include "tests/net-takeover/net_space.hpp"
#include "tests/tools/command_host.hpp"

namespace migrate::tool {
namespace {

using migrate::testing::NetSpace;
using testing::CommandProcess;
using testing::Host;
using testing::Process;
using testing::wait_for;
using testing::Words;

constexpr const char* kMac = "52:54:00:12:34:56";

TEST(CommandAnnounce, WhatWillNotDoIsRefusedWithItsExitCode) {
  const Host host;
  EXPECT_EQ(host.code({"announce", "br0"}), 2) << "no MAC address";
  EXPECT_EQ(host.code({"announce", "br0", "--mac", "52:54"}), 2);
  EXPECT_EQ(host.code({"announce", "br0", "--mac", kMac, "--ip", "127.0.0.1"}), 2);
  EXPECT_EQ(host.code({"announce", "br0", "--mac", kMac, "--vlan", "4095"}), 2);
  EXPECT_EQ(host.code({"announce", "br0", "--mac", kMac, "--schedule", "soon"}), 2);
  EXPECT_EQ(host.code({"announce", "mig-nowhere", "--mac", kMac}), 1);
  const Json loopback = host.json({"announce", "lo", "--mac", kMac});
  EXPECT_EQ(loopback["error"]["code"], "unsupported") << loopback;
  EXPECT_NE(loopback["error"]["remedy"], "");
}

TEST(CommandAnnounce, AListenerRefusesAnInterfaceThatIsNotThere) {
  const Host host;
  EXPECT_EQ(host.code({"recv", "--listen", "127.0.0.1:0", "--announce", "mig-nowhere"}), 1);
  EXPECT_EQ(host.code({"recv", "--listen", "127.0.0.1:0", "--announce", "lo", "--no-announce"}), 2);
  EXPECT_EQ(host.code({"recv", "--listen", "127.0.0.1:0", "--announce-schedule", "x"}), 2);
}

TEST(CommandAnnounce, TheBridgeFollowsThePortThatIsNamed) {
  NetSpace space;
  if (!space.why_not().empty()) GTEST_SKIP() << space.why_not();
  space.must("ip link add name br0 type bridge forward_delay 0 && ip link set dev br0 up");
  migrate::testing::connect(space, "tap0", space, "card0");
  space.must("ip link set dev tap0 master br0");
  const Host host;
  const auto announce = [&](Words words) {
    Json json;
    words.insert(words.begin(), {"announce", "tap0", "--mac", kMac, "--schedule", "0,1"});
    space.run([&] { json = host.json(words); });
    return json;
  };
  const auto known = [&] {
    return space.sh(std::string("bridge fdb show br br0 | grep ^") + kMac);
  };
  const Json plain = announce({"--ip", "192.0.2.7"});
  EXPECT_EQ(plain["frames_sent"], 4) << plain;
  EXPECT_EQ(known().find("dev tap0"), std::string::npos) << "it was not asked for";
  const Json with_table = announce({"--ip", "192.0.2.7", "--ip", "2001:db8::7", "--fdb"});
  EXPECT_EQ(with_table["frames_sent"], 6) << with_table;
  EXPECT_EQ(with_table["fdb_entries"], 1);
  EXPECT_NE(known().find("dev tap0"), std::string::npos);
  Json refused;
  space.run([&] { refused = host.json({"announce", "br0", "--mac", kMac, "--fdb"}); });
  EXPECT_EQ(refused["error"]["code"], "unsupported") << refused;
}

class CommandHookTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::kvm_is_here()) GTEST_SKIP() << "needs /dev/kvm";
  }
  std::string told() const {
    std::ifstream in(a_.folder() / "told");
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
  }
  /// Moves a guest to b, whose listener gets `options` too; what its report says of the takeover.
  Json takeover(Words options) {
    const Process source = a_.run("counter");
    std::string address;
    options.insert(options.end(), {"--once", "--json"});
    const Process target = b_.listen(options, address);
    EXPECT_EQ(a_.code({"send", "vm:web", address}), 0);
    // The report waits for the hook, and nobody else does.
    EXPECT_EQ(b_.state(), "running");
    EXPECT_TRUE(wait_for([&] { return !target->json().is_null(); }));
    EXPECT_EQ(b_.state(), "running");
    const Json report = target->json();
    EXPECT_EQ(report["outcome"], "done") << report;
    EXPECT_EQ(b_.code({"stop", "web"}), 0);
    EXPECT_EQ(target->wait(), 0) << target->err();
    return report["takeover"];
  }

  Host a_;
  Host b_;
};

TEST_F(CommandHookTest, RunsWhenTheGuestDoes) {
  const std::string path = (a_.folder() / "told").string();
  const Json takeover =
      this->takeover({"--on-takeover", "echo \"$MIGRATE_GUEST ${#MIGRATE_SESSION}\" > " + path});
  EXPECT_EQ(takeover["hook"]["result"], "ok") << takeover;
  EXPECT_EQ(takeover["hook"]["code"], 0);
  EXPECT_TRUE(takeover["hook"]["error"].is_null());
  EXPECT_EQ(told(), "web 32\n");
}

TEST_F(CommandHookTest, WhatFailsStopsNoGuest) {
  const Json takeover = this->takeover({"--on-takeover", "exit 7"});
  EXPECT_EQ(takeover["hook"]["result"], "failed") << takeover;
  EXPECT_EQ(takeover["hook"]["code"], 7);
}

TEST_F(CommandHookTest, WhatHangsStopsNoGuest) {
  const Json takeover =
      this->takeover({"--on-takeover", "sleep 1000", "--on-takeover-limit", "200ms"});
  EXPECT_EQ(takeover["hook"]["result"], "timeout") << takeover;
}

TEST_F(CommandHookTest, AGuestWithoutCardsAndHookHasNothingToSay) {
  EXPECT_TRUE(takeover({}).is_null());
}

TEST_F(CommandHookTest, RunsInTheProcessOfASessionToo) {
  const Process source = a_.run("counter");
  const std::string path = (a_.folder() / "told").string();
  std::string address;
  const Process listener =
      b_.listen({"--on-takeover", "echo \"$MIGRATE_GUEST it's\" > " + path}, address);
  ASSERT_EQ(a_.code({"send", "vm:web", address}), 0);
  EXPECT_TRUE(wait_for([&] { return told() == "web it's\n"; })) << told();
  EXPECT_EQ(b_.code({"stop", "web"}), 0);
}

}  // namespace
}  // namespace migrate::tool
