// When announcements are sent.
#include <gtest/gtest.h>

#include "migrate/announce.hpp"

namespace migrate {
namespace {

TEST(AnnounceSchedule, IsAsItIsToldUnlessSaidOtherwise) {
  EXPECT_EQ(to_text(AnnounceSchedule{}), "0ms,50ms,200ms,450ms,800ms");
}

TEST(AnnounceSchedule, TakesTimesThatAscend) {
  for (const auto& [text, told] : {std::pair("0", "0ms"), std::pair("10,20", "10ms,20ms"),
                                   std::pair("0ms,1s,60s", "0ms,1000ms,60000ms")}) {
    const auto schedule = parse_announce_schedule(text);
    ASSERT_TRUE(schedule) << text;
    EXPECT_EQ(to_text(*schedule), told);
    EXPECT_EQ(to_text(*parse_announce_schedule(told)), told);
  }
}

TEST(AnnounceSchedule, RefusesWhatIsNoneWithARemedy) {
  std::string many = "0";
  for (int i = 1; i <= 32; ++i) many += "," + std::to_string(i);
  for (const std::string& text :
       {std::string(), std::string("0,"), std::string("50,0"), std::string("0,0"),
        std::string("soon"), std::string("-1"), std::string("61s"), many}) {
    const auto schedule = parse_announce_schedule(text);
    ASSERT_FALSE(schedule) << text;
    EXPECT_EQ(schedule.error().code, ErrorCode::kInvalidArgument) << text;
    EXPECT_FALSE(schedule.error().remedy.empty()) << text;
  }
}

}  // namespace
}  // namespace migrate
