// What is announced of a guest's cards, and how a session's process hears of it.
#include "tools/migrate/announce_options.hpp"

#include <gtest/gtest.h>

#include <algorithm>

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
}

TEST(AnnounceOptions, ACardHasItsMacFromTheGuestAndItsAddressesFromHereOrThere) {
  const auto guests = std::vector{*parse_net("tap=a,mac=52:54:00:12:34:56,ip=192.0.2.7"),
                                  *parse_net("tap=b,mac=52:54:00:12:34:57,ip=192.0.2.8")};
  const auto given = std::vector{*parse_net("tap=t0"), *parse_net("tap=t1,ip=2001:db8::8,vlan=42")};
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

}  // namespace
}  // namespace migrate::tool
