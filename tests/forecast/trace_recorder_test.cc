// Recording a dirty trace: what is written is in it, and the guest goes on as it was.
#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "base/event_fd.hpp"
#include "forecast/trace_pages.hpp"
#include "migrate/dirty_trace.hpp"
#include "tests/session/engine/fake_guest.hpp"

namespace migrate {
namespace {

using std::chrono::milliseconds;
using testing::FakeSource;
using testing::World;

constexpr RegionId kLow{0, 0, 0};
constexpr RegionId kHigh{0, 1, 0};

std::vector<Region> two_regions() {
  return {{kLow, {{0}, 128}, Backing::kMemfd}, {kHigh, {{1 << 20}, 64}, Backing::kMemfd}};
}

TraceOptions shortly() {
  TraceOptions options;
  options.duration = milliseconds(200);
  options.interval = milliseconds(5);
  return options;
}

class TraceRecorder : public ::testing::TestWithParam<testing::TrackerStyle> {
 protected:
  FakeSource::Script script() {
    FakeSource::Script script;
    script.style = GetParam();
    return script;
  }
  World world_;
};

INSTANTIATE_TEST_SUITE_P(Trackers, TraceRecorder,
                         ::testing::Values(testing::TrackerStyle::kManual,
                                           testing::TrackerStyle::kRearmInCollect));

TEST_P(TraceRecorder, EachWriteIsInTheSampleInWhichItCame) {
  FakeSource::Script script = this->script();
  int collects = 0;
  script.writes = [&](FakeSource& guest, const char* where) {
    if (std::string_view(where) != "collect") return;
    // Two collects are before the first sample.
    switch (collects++) {
      case 0:
      case 1:
        return guest.write(kLow, {1}, 7);
      case 2:
        guest.write(kLow, {127}, 7);
        return guest.write(kHigh, {1 << 20}, 7);
      case 3:
        return guest.write(kLow, {127}, 8);
      default:
        return;
    }
  };
  FakeSource guest(world_, two_regions(), script);
  TraceOptions options = shortly();
  options.duration = std::chrono::seconds(1);  // Three samples are enough, even on a slow machine.
  const auto trace = record_trace(guest, options);
  ASSERT_TRUE(trace) << trace.error().to_text();
  ASSERT_GE(trace->samples.size(), 3u);
  EXPECT_EQ(trace->samples[0].dirtied, (TracePages{{127, 2}}));
  EXPECT_EQ(trace->samples[1].dirtied, (TracePages{{127, 1}}));
  for (std::size_t i = 2; i < trace->samples.size(); ++i) {
    EXPECT_TRUE(trace->samples[i].dirtied.empty());
  }
  EXPECT_EQ(trace->regions, two_regions());
  EXPECT_EQ(trace->tracker, "fake");
  EXPECT_EQ(trace->rearms_in_collect, GetParam() == testing::TrackerStyle::kRearmInCollect);
  EXPECT_EQ(trace->costs.state_bytes, 305u);
  EXPECT_FALSE(trace->paused);
  EXPECT_TRUE(guest.running());
  EXPECT_EQ(guest.pauses(), 1);
  EXPECT_TRUE(encode_trace(*trace));
}

TEST_P(TraceRecorder, PagesOfZerosAreFoundAndHolesNotTouched) {
  FakeSource guest(world_, two_regions(), script());
  guest.write(kLow, {3}, 1);
  guest.write_zeros(kLow, {4});
  TraceOptions options = shortly();
  options.duration = std::chrono::seconds(1);
  options.interval = milliseconds(100);
  const auto trace = record_trace(guest, options);
  ASSERT_TRUE(trace) << trace.error().to_text();
  EXPECT_EQ(trace->empty, (TracePages{{0, 3}, {4, 188}}));
}

TEST_P(TraceRecorder, AGuestThatStandsIsNotResumed) {
  FakeSource::Script script = this->script();
  script.run_state = RunState::kPaused;
  FakeSource guest(world_, two_regions(), script);
  const auto trace = record_trace(guest, shortly());
  ASSERT_TRUE(trace) << trace.error().to_text();
  EXPECT_TRUE(trace->paused);
  EXPECT_FALSE(guest.running());
}

TEST_P(TraceRecorder, AnErrorLeavesTheGuestAsItWas) {
  {
    FakeSource::Script script = this->script();
    script.fail_save = ErrorCode::kGuest;
    FakeSource guest(world_, two_regions(), script);
    EXPECT_FALSE(record_trace(guest, shortly()));
    EXPECT_TRUE(guest.running());
  }
  {
    FakeSource::Script script = this->script();
    script.fail_collect = ErrorCode::kIo;
    script.collects_before_failure = 2;
    FakeSource guest(world_, two_regions(), script);
    EXPECT_FALSE(record_trace(guest, shortly()));
    EXPECT_TRUE(guest.running());
    // Stopped, so that it can be started for the next one.
    EXPECT_TRUE(guest.tracker().start());
  }
}

TEST_P(TraceRecorder, EndsWhenItIsCancelled) {
  FakeSource guest(world_, two_regions(), script());
  EventFd cancel = *EventFd::create();
  TraceOptions options;
  options.duration = std::chrono::minutes(10);
  options.interval = std::chrono::seconds(10);
  options.cancel_fd = cancel.fd();
  auto recording = std::async(std::launch::async, [&] { return record_trace(guest, options); });
  cancel.set();
  const auto trace = recording.get();
  ASSERT_FALSE(trace);
  EXPECT_EQ(trace.error().code, ErrorCode::kCancelled);
  EXPECT_TRUE(guest.running());
}

TEST(TraceOptions, AreChecked) {
  TraceOptions options;
  EXPECT_TRUE(check(options));
  options.interval = std::chrono::microseconds(10);
  EXPECT_FALSE(check(options));
  options = {};
  options.duration = std::chrono::hours(1);
  EXPECT_FALSE(check(options));
  options = {};
  options.interval = std::chrono::seconds(2);
  EXPECT_FALSE(check(options));
}

}  // namespace
}  // namespace migrate
