// The announcer on real bridges, in network namespaces: where frames go, and what neighbours
// believe, before it has announced a guest and after.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>

#include <thread>

#include "migrate/announce.hpp"
#include "tests/net-takeover/net_space.hpp"

namespace migrate {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::NetSpace;

constexpr const char* kMac = "52:54:00:aa:00:07";
constexpr const char* kOtherMac = "52:54:00:bb:00:07";
// Whatever a busy machine takes; nothing waits this long unless it fails.
constexpr seconds kPatience{60};

bool comes_true(const std::function<bool()>& condition) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return true;
}

/// Two hosts and a neighbour, each at a port of one switch. At either host a bridge has the way to
/// the switch ("uplink") and a port for the guest ("tap"), whose other end is the guest's card.
class AnnouncerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const NetSpace* space : {&switch_, &a_, &b_, &neighbour_, &guest_a_, &guest_b_}) {
      if (!space->why_not().empty()) GTEST_SKIP() << space->why_not();
    }
    switch_.must("ip link add name sw type bridge forward_delay 0 && ip link set dev sw up");
    for (const auto& [host, name] : {std::pair(&a_, "port-a"), {&b_, "port-b"}}) {
      testing::connect(switch_, name, *host, "uplink");
      host->must("ip link add name br0 type bridge forward_delay 0 && ip link set dev br0 up");
      host->must("ip link set dev uplink master br0");
      switch_.must(std::string("ip link set dev ") + name + " master sw");
    }
    testing::connect(switch_, "port-n", neighbour_, "eth");
    switch_.must("ip link set dev port-n master sw");
    neighbour_.must("echo 0 > /proc/sys/net/ipv6/conf/eth/disable_ipv6");
    neighbour_.must("ip addr add 192.0.2.1/24 dev eth; ip addr add 2001:db8::1/64 dev eth nodad");
    add_guest(a_, guest_a_, kMac);
    add_guest(b_, guest_b_, kMac);
    guest_a_.must("echo 0 > /proc/sys/net/ipv6/conf/card/disable_ipv6");
    guest_a_.must("ip addr add 192.0.2.7/24 dev card; ip addr add 2001:db8::7/64 dev card nodad");
    // The network has heard the guest at a: what it asks all for, all bridges hear.
    ASSERT_TRUE(comes_true([&] {
      return guest_a_.sh("ping -n -c 1 -W 1 192.0.2.1").find(" 1 received") != std::string::npos;
    }));
    ASSERT_TRUE(reaches("192.0.2.7"));
    ASSERT_TRUE(reaches("2001:db8::7"));
    ASSERT_EQ(port_of(switch_, "sw", kMac), "port-a");
    ASSERT_EQ(port_of(b_, "br0", kMac), "uplink");
  }

  static void add_guest(const NetSpace& host, const NetSpace& guest, const char* mac) {
    testing::connect(host, "tap", guest, "card");
    guest.must(std::string("ip link set dev card address ") + mac);
    host.must("ip link set dev tap master br0");
  }

  bool reaches(const std::string& ip) const {
    return comes_true([&] {
      return neighbour_.sh("ping -n -c 1 -W 1 " + ip).find(" 1 received") != std::string::npos;
    });
  }
  /// By which port a bridge forwards to `mac`; empty: it knows none.
  static std::string port_of(const NetSpace& space, const std::string& bridge,
                             const std::string& mac) {
    const std::string text = space.sh("bridge fdb show br " + bridge + " | grep -i ^" + mac);
    const auto dev = text.find("dev ");
    return dev == std::string::npos ? "" : text.substr(dev + 4, text.find(' ', dev + 4) - dev - 4);
  }
  /// The MAC address that the neighbour sends to for `ip`.
  std::string believed(const std::string& ip) const {
    const std::string text = neighbour_.sh("ip neigh show " + ip);
    const auto at = text.find("lladdr ");
    return at == std::string::npos ? text : text.substr(at + 7, 17);
  }

  /// The guest is at b now, with `mac`, and silent; a has let go of it.
  void move(const char* mac) {
    guest_a_.must("ip link set dev card down");
    guest_b_.must(std::string("ip link set dev card address ") + mac);
  }
  AnnouncedCard card(const char* mac) const {
    return {"tap", "", *parse_mac(mac), {*parse_ip("192.0.2.7"), *parse_ip("2001:db8::7")}, {}};
  }
  std::unique_ptr<Announcer> announcer(const AnnouncedCard& card, AnnounceSchedule schedule = {}) {
    std::unique_ptr<Announcer> made;
    b_.run([&] {
      auto result = make_announcer({card}, std::move(schedule));
      ASSERT_TRUE(result) << result.error().to_text();
      made = *std::move(result);
    });
    return made;
  }
  static TakenOver now() { return {"session", "guest", std::chrono::steady_clock::now()}; }

  NetSpace switch_, a_, b_, neighbour_, guest_a_, guest_b_;
};

TEST_F(AnnouncerTest, TheNetworkFollowsAGuestThatKeepsItsMac) {
  move(kMac);
  const auto announcer = this->announcer(card(kMac));
  // Opened, and nothing said: all is as it was.
  EXPECT_EQ(port_of(switch_, "sw", kMac), "port-a");
  EXPECT_EQ(port_of(b_, "br0", kMac), "uplink");
  b_.run([&] { announcer->taken_over(now()); });
  EXPECT_TRUE(comes_true([&] { return port_of(switch_, "sw", kMac) == "port-b"; }));
  EXPECT_TRUE(comes_true([&] { return port_of(b_, "br0", kMac) == "tap"; }));
  announcer->wait(std::chrono::steady_clock::now() + kPatience);
  const AnnounceReport report = announcer->report();
  EXPECT_TRUE(report.over);
  EXPECT_EQ(report.frames_sent, 5u * 3);
  EXPECT_EQ(report.frames_failed, 0u);
  EXPECT_EQ(report.fdb_entries, 1u);
  EXPECT_TRUE(report.first_ms);
  EXPECT_THAT(report.errors, ::testing::IsEmpty());
  // The guest answers at its new place, without having spoken first.
  guest_b_.must("ip addr add 192.0.2.7/24 dev card");
  EXPECT_TRUE(reaches("192.0.2.7"));
}

TEST_F(AnnouncerTest, NeighboursReplaceTheMacOfAGuestThatHasANewOne) {
  move(kOtherMac);
  EXPECT_EQ(believed("192.0.2.7"), kMac);
  EXPECT_EQ(believed("2001:db8::7"), kMac);
  const auto announcer = this->announcer(card(kOtherMac));
  EXPECT_EQ(believed("192.0.2.7"), kMac) << "nothing was announced yet";
  b_.run([&] { announcer->taken_over(now()); });
  EXPECT_TRUE(comes_true([&] { return believed("192.0.2.7") == kOtherMac; }));
  EXPECT_TRUE(comes_true([&] { return believed("2001:db8::7") == kOtherMac; }));
  EXPECT_TRUE(comes_true([&] { return port_of(switch_, "sw", kOtherMac) == "port-b"; }));
}

TEST_F(AnnouncerTest, ACardWithoutAddressesMovesInTheSwitches) {
  move(kMac);
  AnnouncedCard silent = card(kMac);
  silent.ips.clear();
  const auto announcer = this->announcer(silent, {{milliseconds(0)}});
  b_.run([&] { announcer->taken_over(now()); });
  EXPECT_TRUE(comes_true([&] { return port_of(switch_, "sw", kMac) == "port-b"; }));
  announcer->wait(std::chrono::steady_clock::now() + kPatience);
  EXPECT_EQ(announcer->report().frames_sent, 1u);
}

TEST_F(AnnouncerTest, AVlansTagIsOnTheFrames) {
  const std::string lacks = neighbour_.sh(
      "ip link add link eth name eth.42 type vlan id 42 && ip link set dev eth.42 up");
  if (!lacks.empty()) GTEST_SKIP() << "no VLAN interfaces here: " << lacks;
  neighbour_.must("ip addr add 198.51.100.1/24 dev eth.42");
  neighbour_.must(std::string("ip neigh add 198.51.100.7 lladdr ") + kOtherMac +
                  " nud stale dev eth.42");
  AnnouncedCard tagged = card(kMac);
  tagged.ips = {*parse_ip("198.51.100.7")};
  tagged.vlan = 42;
  const auto announcer = this->announcer(tagged);
  b_.run([&] { announcer->taken_over(now()); });
  EXPECT_TRUE(comes_true(
      [&] { return neighbour_.sh("ip neigh show 198.51.100.7").find(kMac) != std::string::npos; }));
}

TEST_F(AnnouncerTest, ABridgeThatKnowsNoVlansFollowsAGuestInOne) {
  move(kMac);
  AnnouncedCard tagged = card(kMac);
  tagged.vlan = 42;
  const auto announcer = this->announcer(tagged);
  b_.run([&] { announcer->taken_over(now()); });
  EXPECT_TRUE(comes_true([&] { return port_of(b_, "br0", kMac) == "tap"; }));
  announcer->wait(std::chrono::steady_clock::now() + kPatience);
  EXPECT_THAT(announcer->report().errors, ::testing::IsEmpty());
}

TEST_F(AnnouncerTest, AnInterfaceThatIsUpInTimeIsEnough) {
  move(kMac);
  b_.must("ip link set dev br0 down");
  const auto announcer = this->announcer(card(kMac), {{milliseconds(0), milliseconds(1)}});
  ASSERT_EQ(announcer->report().errors.size(), 1u);
  EXPECT_NE(announcer->report().errors[0].find("'br0' is down"), std::string::npos)
      << announcer->report().errors[0];
  b_.must("ip link set dev br0 up");
  b_.run([&] { announcer->taken_over(now()); });
  EXPECT_TRUE(comes_true([&] { return port_of(switch_, "sw", kMac) == "port-b"; }));
}

TEST_F(AnnouncerTest, AnInterfaceThatStaysDownIsSaidAndHarmsNobody) {
  b_.must("ip link set dev br0 down");
  const auto announcer = this->announcer(card(kMac), {{milliseconds(0), milliseconds(1)}});
  b_.run([&] { announcer->taken_over(now()); });
  announcer->wait(std::chrono::steady_clock::now() + kPatience);
  const AnnounceReport report = announcer->report();
  EXPECT_TRUE(report.over);
  EXPECT_EQ(report.frames_sent, 0u);
  EXPECT_EQ(report.frames_failed, 6u);
  EXPECT_FALSE(report.first_ms);
  EXPECT_GE(report.errors.size(), 2u);
}

TEST_F(AnnouncerTest, ACardThatCannotBeAnnouncedSilencesNoOther) {
  move(kMac);
  testing::connect(b_, "lone", b_, "other-end");
  AnnouncedCard lone = card(kOtherMac);
  lone.port = "lone";
  AnnouncedCard gone = card(kOtherMac);
  gone.port = "gone";
  std::unique_ptr<Announcer> announcer;
  b_.run([&] {
    auto made = make_announcer({lone, card(kMac), gone}, {{milliseconds(0)}});
    ASSERT_TRUE(made) << made.error().to_text();
    announcer = *std::move(made);
    announcer->taken_over(now());
  });
  ASSERT_TRUE(announcer);
  EXPECT_TRUE(comes_true([&] { return port_of(switch_, "sw", kMac) == "port-b"; }));
  announcer->wait(std::chrono::steady_clock::now() + kPatience);
  const AnnounceReport report = announcer->report();
  EXPECT_EQ(report.frames_sent, 3u);
  EXPECT_THAT(report.errors, ::testing::UnorderedElementsAre(::testing::HasSubstr("'lone'"),
                                                             ::testing::HasSubstr("'gone'")));
}

TEST_F(AnnouncerTest, WhatTheBridgeLearnsFromALateFrameIsSetRight) {
  move(kMac);
  AnnounceSchedule long_one{{milliseconds(0)}};
  for (int i = 1; i <= 30; ++i) long_one.at.emplace_back(i * 1'900);
  const auto announcer = this->announcer(card(kMac), long_one);
  b_.run([&] { announcer->taken_over(now()); });
  ASSERT_TRUE(comes_true([&] { return port_of(b_, "br0", kMac) == "tap"; }));
  // As the bridge does for a frame of the guest's that was still under way.
  b_.must(std::string("bridge fdb replace ") + kMac + " dev uplink master dynamic");
  EXPECT_TRUE(comes_true([&] { return port_of(b_, "br0", kMac) == "tap"; }));
  announcer->stop();
  EXPECT_EQ(announcer->report().fdb_entries, 1u);
}

TEST_F(AnnouncerTest, ABridgeThatWasMadeAnewIsFound) {
  move(kMac);
  const auto announcer = this->announcer(card(kMac), {{milliseconds(0)}});
  b_.must(
      "ip link del dev br0; ip link add name br0 type bridge forward_delay 0;"
      "ip link set dev br0 up; ip link set dev tap master br0; ip link set dev uplink master br0");
  b_.run([&] { announcer->taken_over(now()); });
  announcer->wait(std::chrono::steady_clock::now() + kPatience);
  const AnnounceReport report = announcer->report();
  EXPECT_THAT(report.errors, ::testing::IsEmpty());
  EXPECT_EQ(report.frames_sent, 3u);
  EXPECT_EQ(report.frames_failed, 0u);
  EXPECT_EQ(report.fdb_entries, 1u);
  EXPECT_TRUE(comes_true([&] { return port_of(switch_, "sw", kMac) == "port-b"; }));
}

TEST_F(AnnouncerTest, WithoutCapabilitiesItSaysWhichBeforehand) {
  // Of this thread alone: that of run() ends with it.
  b_.run([&] {
    testing::drop_capabilities({CAP_NET_ADMIN});
    const auto made = make_announcer({card(kMac)});
    ASSERT_TRUE(made) << made.error().to_text();
    EXPECT_THAT((*made)->report().errors,
                ::testing::ElementsAre(::testing::HasSubstr("CAP_NET_ADMIN")));
  });
  b_.run([&] {
    testing::drop_capabilities({CAP_NET_RAW, CAP_NET_ADMIN});
    const auto made = make_announcer({card(kMac)});
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code, ErrorCode::kPermission);
    EXPECT_NE(made.error().remedy.find("CAP_NET_RAW"), std::string::npos) << made.error().remedy;
  });
}

TEST_F(AnnouncerTest, ItEndsEarlyWhenItIsDropped) {
  auto announcer = this->announcer(card(kMac), {{milliseconds(0), milliseconds(59'000)}});
  b_.run([&] { announcer->taken_over(now()); });
  const auto begin = std::chrono::steady_clock::now();
  announcer.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(50));
  // And one that never had anything to announce.
  this->announcer(card(kMac)).reset();
}

TEST_F(AnnouncerTest, WhatWillNotDoIsSaidBeforehandWithARemedy) {
  const auto refused = [&](AnnouncedCard card, ErrorCode code, const std::string& word) {
    b_.run([&] {
      const auto made = make_announcer({card});
      ASSERT_FALSE(made) << word;
      EXPECT_EQ(made.error().code, code) << made.error().to_text();
      EXPECT_NE(made.error().message.find(word), std::string::npos) << made.error().message;
      EXPECT_NE(made.error().remedy, "");
    });
  };
  const AnnouncedCard good = card(kMac);
  AnnouncedCard bad = good;
  bad.port = "nowhere";
  refused(bad, ErrorCode::kNotFound, "'nowhere'");
  bad = good;
  bad.leave_by = "nowhere";
  refused(bad, ErrorCode::kNotFound, "'nowhere'");
  bad.leave_by = "a-name-that-is-too-long";
  refused(bad, ErrorCode::kInvalidArgument, "a-name-that-is-too-long");
  bad.leave_by = "lo";
  refused(bad, ErrorCode::kUnsupported, "no Ethernet");
  b_.must("ip link set dev uplink mtu 70");
  bad.leave_by = "uplink";
  refused(bad, ErrorCode::kUnsupported, "70 bytes");
  b_.must("ip link set dev tap nomaster");
  refused(good, ErrorCode::kUnsupported, "no port of a bridge");
}

}  // namespace
}  // namespace migrate
