#include "base/log.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace migrate {
namespace {

/// The log as it was: silent.
class LogTest : public testing::Test {
 protected:
  void TearDown() override { set_log_sink(LogLevel::kOff, nullptr); }
  std::vector<std::string> lines_;
};

TEST_F(LogTest, IsSilentByDefault) {
  testing::internal::CaptureStderr();
  log_line(LogLevel::kError, "nobody asked");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_FALSE(log_enabled(LogLevel::kError));
}

TEST_F(LogTest, GivesLinesFromTheLevelOn) {
  set_log_sink(LogLevel::kWarning, [&](LogLevel level, std::string_view line) {
    lines_.push_back(std::string(to_string(level)) + " " + std::string(line));
  });
  log_line(LogLevel::kInfo, "quiet");
  log_line(LogLevel::kWarning, "one");
  log_line(LogLevel::kError, "two");
  set_log_sink(LogLevel::kOff, nullptr);
  log_line(LogLevel::kError, "three");
  EXPECT_THAT(lines_, testing::ElementsAre("warning one", "error two"));
}

TEST_F(LogTest, OneThreadAtATimeWrites) {
  set_log_sink(LogLevel::kDebug,
               [&](LogLevel, std::string_view line) { lines_.emplace_back(line); });
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] {
      for (int n = 0; n < 500; ++n) log_line(LogLevel::kInfo, "a line");
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(lines_.size(), 2000u);
}

TEST_F(LogTest, LevelsHaveNames) {
  for (const char* name : {"debug", "info", "warning", "error", "off"}) {
    const auto level = parse_log_level(name);
    ASSERT_TRUE(level) << name;
    EXPECT_EQ(to_string(*level), name);
  }
  EXPECT_FALSE(parse_log_level("loud"));
}

}  // namespace
}  // namespace migrate
