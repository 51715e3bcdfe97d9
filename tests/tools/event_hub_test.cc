#include "tools/migrate/event_hub.hpp"

#include <gtest/gtest.h>

namespace migrate::tool {
namespace {

using Kind = HubMessage::Kind;

Progress at_round(std::uint32_t round) {
  Progress progress;
  progress.phase = Phase::kRounds;
  progress.round = round;
  return progress;
}

std::vector<HubMessagePtr> take_all(EventHub::Follower& follower) {
  std::vector<HubMessagePtr> messages;
  while (auto message = follower.next()) messages.push_back(message);
  return messages;
}

std::chrono::steady_clock::time_point now() { return std::chrono::steady_clock::now(); }

TEST(EventHub, LateFollowersHearTheMigrationFromItsBeginning) {
  EventHub hub;
  hub.begin(1);
  hub.publish(Event{"precopy", Phase::kRounds, 0, "old"});
  hub.begin(2);
  hub.publish(Event{"precopy", Phase::kRounds, 0, "new"});
  const auto follower = hub.follow([] {});
  hub.publish_report({{"outcome", "done"}});
  const auto messages = take_all(*follower);
  ASSERT_EQ(messages.size(), 2u);
  const Json first = Json::parse(messages[0]->text);
  EXPECT_EQ(first["detail"], "new");
  EXPECT_EQ(first["migration"], 2);
  EXPECT_EQ(first["type"], "event");
  EXPECT_EQ(Json::parse(messages[1]->text)["report"]["outcome"], "done");
}

TEST(EventHub, AFollowerThatDoesNotReadCostsBoundedMemoryAndKeepsTheReport) {
  EventHub hub;
  hub.begin(1);
  const auto follower = hub.follow([] {});
  for (std::uint32_t i = 0; i < 2000; ++i) {
    hub.publish(at_round(i));
    hub.publish(Event{"round-end", Phase::kRounds, i, ""});
  }
  hub.publish_report({{"outcome", "done"}});
  const auto messages = take_all(*follower);
  EXPECT_LE(messages.size(), 1024u);
  EXPECT_EQ(messages.back()->kind, Kind::kReport);
  const auto progress = std::count_if(messages.begin(), messages.end(), [](const auto& message) {
    return message->kind == Kind::kProgress;
  });
  EXPECT_LE(progress, 1);
}

TEST(EventHub, WakesAFollowerOnceForWhatItHasNotTaken) {
  EventHub hub;
  hub.begin(1);
  int wakes = 0;
  const auto follower = hub.follow([&wakes] { ++wakes; });
  hub.publish(at_round(1));
  EXPECT_EQ(wakes, 0) << "it has not asked yet";
  EXPECT_EQ(take_all(*follower).size(), 1u);
  hub.publish(at_round(2));
  hub.publish(at_round(3));
  EXPECT_EQ(wakes, 1);
  EXPECT_EQ(take_all(*follower).size(), 1u) << "only the latest progress is news";
}

TEST(EventHub, DrainsWhenAllFollowersHaveEverythingOrAreGone) {
  EventHub hub;
  hub.begin(1);
  EXPECT_TRUE(hub.drain(now()));
  auto follower = hub.follow([] {});
  hub.publish(at_round(1));
  EXPECT_FALSE(hub.drain(now()));
  take_all(*follower);
  EXPECT_TRUE(hub.drain(now()));
  hub.publish(at_round(2));
  EXPECT_FALSE(hub.drain(now()));
  follower.reset();
  EXPECT_TRUE(hub.drain(now()));
}

TEST(EventHub, TextThatIsNotUtf8IsStillJson) {
  EventHub hub;
  hub.begin(1);
  const auto follower = hub.follow([] {});
  hub.publish(Event{"failed", Phase::kNone, 0, "bytes \xff\xfe"});
  EXPECT_TRUE(Json::accept(follower->next()->text));
}

}  // namespace
}  // namespace migrate::tool
