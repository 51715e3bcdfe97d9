// What is announced of a guest's cards, and how a session's process hears of it.
#include "tools/migrate/announce_options.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>

#include <algorithm>

#include "tests/net-takeover/net_space.hpp"
#include "tools/migrate/arrival_takeover.hpp"
#include "tools/migrate/machine_options.hpp"

namespace migrate::tool {
namespace {

TakeoverChoice parsed(std::vector<std::string> words) {
  TakeoverChoice choice;
  CLI::App app;
  add_takeover_options(app, choice);
  std::reverse(words.begin(), words.end());  // As CLI11 wants them.
  app.parse(words);
  return choice;
}

TEST(AnnounceOptions, AChoiceIsTheSameAfterItsWords) {
  EXPECT_FALSE(parsed({}).announce.asked);
  EXPECT_TRUE(parsed({"--announce", "br0"}).announce.asked);
  EXPECT_TRUE(parsed({"--announce-schedule", "0"}).announce.asked);
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{},
        {"--no-announce"},
        {"--announce", "br0", "--announce-schedule", "0,10"},
        {"--on-takeover", "echo 'a b' > /tmp/x", "--on-takeover-limit", "5s"}}) {
    const TakeoverChoice choice = parsed(words);
    const TakeoverChoice again = parsed(takeover_arguments(choice));
    EXPECT_EQ(again.announce.enabled, choice.announce.enabled);
    EXPECT_EQ(again.announce.leave_by, choice.announce.leave_by);
    EXPECT_EQ(to_text(again.announce.schedule), to_text(choice.announce.schedule));
    EXPECT_EQ(again.hook, choice.hook);
    EXPECT_EQ(again.hook_limit, choice.hook_limit);
  }
}

TEST(AnnounceOptions, WhatMakesNoSenseIsRefused) {
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"--no-announce", "--announce", "br0"},
        {"--announce-schedule", "soon"},
        {"--on-takeover-limit", "5s"},
        {"--on-takeover", "true", "--on-takeover-limit", "0s"}}) {
    EXPECT_THROW(parsed(words), CLI::ParseError) << words.front();
  }
  AnnounceChoice choice;
  choice.leave_by = "nowhere";
  const Status there = check_announce(choice);
  ASSERT_FALSE(there);
  EXPECT_EQ(there.error().code, ErrorCode::kNotFound);
  EXPECT_NE(there.error().message.find("--announce"), std::string::npos);
  choice.leave_by = "";
  choice.by_card = {"", "nowhere"};
  const Status of_card = check_announce(choice);
  ASSERT_FALSE(of_card);
  EXPECT_NE(of_card.error().message.find("--net"), std::string::npos);
}

TEST(AnnounceOptions, ACardHasItsMacFromTheGuestAndItsAddressesFromHereOrThere) {
  const auto guests = cards_of({*parse_net("tap=a,mac=52:54:00:12:34:56,ip=192.0.2.7"),
                                *parse_net("tap=b,mac=52:54:00:12:34:57,ip=192.0.2.8")});
  const auto given = cards_of({*parse_net("tap=t0"), *parse_net("tap=t1,ip=2001:db8::8,vlan=42")});
  AnnounceChoice choice;
  choice.leave_by = "eth0";
  const auto cards = announced_cards(cards_here(guests, given), choice);
  ASSERT_EQ(cards.size(), 2u);
  EXPECT_EQ(cards[0].port, "t0");
  EXPECT_EQ(cards[0].leave_by, "eth0");
  EXPECT_EQ(to_text(cards[0].mac), "52:54:00:12:34:56");
  ASSERT_EQ(cards[0].ips.size(), 1u);
  EXPECT_EQ(to_text(cards[0].ips[0]), "192.0.2.7");
  EXPECT_FALSE(cards[0].vlan);
  ASSERT_EQ(cards[1].ips.size(), 1u);
  EXPECT_EQ(to_text(cards[1].ips[0]), "2001:db8::8");
  EXPECT_EQ(cards[1].vlan, 42);
  choice.enabled = false;
  EXPECT_TRUE(announced_cards(cards_here(guests, given), choice).empty());
}

class AnnouncedWhere : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!space_.why_not().empty()) GTEST_SKIP() << space_.why_not();
    space_.must("ip link add name br0 type bridge && ip link set dev br0 up");
    migrate::testing::connect(space_, "bridged", space_, "card0");
    migrate::testing::connect(space_, "routed", space_, "card1");
    space_.must("ip link set dev bridged master br0");
  }
  /// Where each card's frames leave.
  std::vector<std::string> where(const std::vector<std::string>& nets,
                                 const std::string& leave_by) {
    std::vector<NetChoice> given;
    for (const std::string& net : nets) {
      given.push_back(*parse_net(net + ",mac=52:54:00:12:34:56"));
    }
    AnnounceChoice choice;
    choice.leave_by = leave_by;
    choice.by_card = announced_by_card(given);
    std::vector<std::string> names;
    space_.run([&] {
      for (const AnnouncedCard& card : announced_cards(cards_of(given), choice)) {
        names.push_back(card.leave_by);
      }
    });
    return names;
  }
  std::vector<std::string> doubts(const std::vector<std::string>& nets,
                                  const AnnounceChoice& choice = {},
                                  std::initializer_list<int> without = {}) {
    std::vector<NetChoice> given;
    for (const std::string& net : nets) given.push_back(*parse_net(net));
    std::vector<std::string> found;
    space_.run([&] {
      migrate::testing::drop_capabilities(without);
      found = announce_doubts(cards_of(given), choice);
    });
    return found;
  }

  migrate::testing::NetSpace space_;
};

TEST_F(AnnouncedWhere, OneInterfaceForAllIsForCardsThatHaveNoBridge) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(where({"tap=bridged"}, "eth0"), (Names{"eth0"}));
  EXPECT_EQ(where({"tap=bridged", "tap=routed"}, "eth0"), (Names{"", "eth0"}));
  EXPECT_EQ(where({"tap=bridged", "tap=routed,announce=eth1"}, "eth0"), (Names{"", "eth1"}));
  EXPECT_EQ(where({"tap=bridged,announce=eth1", "tap=routed"}, ""), (Names{"eth1", ""}));
}

TEST_F(AnnouncedWhere, WhatIsMissingIsSaidBeforeAGuestArrives) {
  using ::testing::ElementsAre;
  using ::testing::HasSubstr;
  EXPECT_THAT(doubts({"tap=bridged"}), ::testing::IsEmpty());
  EXPECT_THAT(doubts({"tap=bridged", "tap=routed", "tap=gone"}),
              ElementsAre(HasSubstr("'routed'"), HasSubstr("'gone'")));
  EXPECT_THAT(doubts({"tap=bridged"}, {}, {CAP_NET_ADMIN}),
              ElementsAre(HasSubstr("CAP_NET_ADMIN")));
  EXPECT_THAT(doubts({"tap=bridged"}, {}, {CAP_NET_RAW}), ElementsAre(HasSubstr("CAP_NET_RAW")));
  AnnounceChoice asked;
  asked.asked = true;
  EXPECT_THAT(doubts({}, asked), ElementsAre(HasSubstr("--net")));
  EXPECT_THAT(doubts({}), ::testing::IsEmpty());
  asked.enabled = false;
  EXPECT_THAT(doubts({"tap=gone"}, asked), ::testing::IsEmpty());
}

}  // namespace
}  // namespace migrate::tool
