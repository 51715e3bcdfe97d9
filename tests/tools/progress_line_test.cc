#include "tools/migrate/progress_line.hpp"

#include <gtest/gtest.h>

#include <array>
#include <string>

namespace migrate::tool {
namespace {

Progress some_progress() {
  Progress progress;
  progress.phase = Phase::kRounds;
  progress.round = 3;
  progress.pages_left = 12034;
  progress.dirty_bytes_per_s = 200 << 20;
  progress.throughput_bytes_per_s = 1.5 * (1 << 30);
  progress.predicted_downtime_ms = 12.5;
  progress.eta_ms = 800;
  return progress;
}

/// What is written to a stream that is no terminal.
std::string written(bool event_lines) {
  std::FILE* file = std::tmpfile();
  {
    ProgressLine line(file, event_lines);
    line.show(some_progress());
    line.show(Event{"round-end", Phase::kRounds, 3, "12034 pages"});
  }
  std::rewind(file);
  std::array<char, 256> bytes{};
  const std::size_t got = std::fread(bytes.data(), 1, bytes.size(), file);
  std::fclose(file);
  return {bytes.data(), got};
}

TEST(ProgressLine, SaysWhatAnOperatorWantsToKnow) {
  const std::string text = progress_text(some_progress(), 200);
  for (const char* part : {"round 3", "12034 pages left", "dirty 200 MiB/s", "sent 1.5 GiB/s",
                           "downtime ~12.5 ms", "ETA 800.0 ms"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
  }
}

TEST(ProgressLine, KeepsToTheTerminalsWidth) {
  EXPECT_EQ(progress_text(some_progress(), 20).size(), 20u);
}

TEST(ProgressLine, LeavesOutWhatIsNotKnownYet) {
  const std::string text = progress_text(Progress{}, 200);
  EXPECT_EQ(text.find("downtime"), std::string::npos) << text;
  EXPECT_EQ(text.find("ETA"), std::string::npos) << text;
}

TEST(ProgressLine, WritesEventsAsLinesWhereThereIsNoTerminal) {
  EXPECT_EQ(written(true), "round-end: 12034 pages\n");
  EXPECT_EQ(written(false), "");
}

TEST(ProgressLine, FiguresReadLikePeopleWriteThem) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(256 << 20), "256 MiB");
  EXPECT_EQ(human_ms(0.25), "250 us");
  EXPECT_EQ(human_ms(12.34), "12.3 ms");
  EXPECT_EQ(human_ms(2500), "2.50 s");
  EXPECT_EQ(human_ms(200'000), "3 min 20 s");
}

}  // namespace
}  // namespace migrate::tool
