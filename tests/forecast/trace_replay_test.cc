// A trace, replayed: every page comes when it is due, throttled ones later.
#include "forecast/trace_replay.hpp"

#include <gtest/gtest.h>

#include "sample_traces.hpp"

namespace migrate::forecast {
namespace {

using std::chrono::milliseconds;

/// Pages in the order in which they are written.
class Listener {
 public:
  Listener(const DirtyTrace& trace, milliseconds offset = milliseconds(0))
      : replay_(trace, offset) {}
  std::vector<std::uint32_t> run(double ms, std::vector<double> withheld = {}) {
    std::vector<std::uint32_t> pages;
    replay_.run(ms, withheld, [&](TraceRun run) {
      for (std::uint32_t i = 0; i < run.count; ++i) pages.push_back(run.first + i);
    });
    return pages;
  }

 private:
  TraceReplay replay_;
};

using Pages = std::vector<std::uint32_t>;

/// 10 ms: pages 0 and 1, then 5; 10 ms: nothing; 20 ms: pages 7 to 10.
DirtyTrace three_samples() {
  DirtyTrace trace = testing::plain_trace(100, milliseconds(10));
  trace.vcpus = 2;
  trace.samples.push_back({milliseconds(10), {{0, 2}, {5, 1}}, {3, 0}});
  trace.samples.push_back({milliseconds(10), {}, {0, 0}});
  trace.samples.push_back({milliseconds(20), {{7, 4}}, {1, 3}});
  return trace;
}

TEST(TraceReplay, PagesAreWrittenEvenlyAndInOrder) {
  const DirtyTrace trace = three_samples();
  Listener guest(trace);
  EXPECT_EQ(guest.run(5), Pages({0}));
  EXPECT_EQ(guest.run(4.9), Pages({1}));
  EXPECT_EQ(guest.run(0.2), Pages({5}));
  EXPECT_EQ(guest.run(9), Pages());
  EXPECT_EQ(guest.run(11), Pages({7, 8}));
}

TEST(TraceReplay, RepeatsForAsLongAsItIsAsked) {
  const DirtyTrace trace = three_samples();
  Listener guest(trace);
  EXPECT_EQ(guest.run(400).size(), 70u);
  EXPECT_EQ(guest.run(10), Pages({0, 1, 5}));
}

TEST(TraceReplay, InPiecesAsInOne) {
  DirtyTrace trace = testing::plain_trace(1000, std::chrono::microseconds(20'013));
  testing::add_sweep(trace, 0, 1000, 77, 13);
  Listener whole(trace), pieces(trace);
  const Pages at_once = whole.run(997);
  Pages together;
  for (int i = 0; i < 9970; ++i) {
    for (const std::uint32_t page : pieces.run(0.1)) together.push_back(page);
  }
  // The sums of times differ in their last bits.
  ASSERT_NEAR(static_cast<double>(at_once.size()), static_cast<double>(together.size()), 1);
  const std::size_t both = std::min(at_once.size(), together.size());
  EXPECT_TRUE(std::equal(at_once.begin(), at_once.begin() + both, together.begin()));
}

TEST(TraceReplay, BeginsWhereItIsTold) {
  const DirtyTrace trace = three_samples();
  EXPECT_EQ(Listener(trace, milliseconds(20)).run(20), Pages({7, 8, 9, 10}));
  EXPECT_EQ(Listener(trace, milliseconds(60)).run(20), Pages({7, 8, 9, 10}));
}

TEST(TraceReplay, BeginsWithinTheTraceWhereverSamplesAreOfUnlikeLengths) {
  DirtyTrace trace = testing::plain_trace(100, milliseconds(10));
  trace.samples.push_back({milliseconds(50), {{1, 1}}, {}});
  trace.samples.push_back({milliseconds(10), {{2, 1}}, {}});
  trace.samples.push_back({milliseconds(1), {{3, 1}}, {}});
  for (int offset = 0; offset < 200; ++offset) {
    const int in_trace = offset % 61;
    const std::uint32_t page = in_trace < 50 ? 1 : in_trace < 60 ? 2 : 3;
    const Pages all = Listener(trace, milliseconds(offset)).run(61);
    ASSERT_FALSE(all.empty()) << offset;
    EXPECT_EQ(all.front(), page) << offset;
  }
}

TEST(TraceReplay, AThrottledWriterIsSlowedByItsOwnShare) {
  const DirtyTrace trace = three_samples();
  // vCPU 0 wrote all of the first sample; that vCPU 1 is held changes nothing.
  EXPECT_EQ(Listener(trace).run(10, {0, 0.9}), Pages({0, 1, 5}));
  EXPECT_EQ(Listener(trace).run(10, {0.5, 0}), Pages({0}));
  EXPECT_EQ(Listener(trace).run(20, {0.5, 0}), Pages({0, 1, 5}));
  // A quarter of the third is vCPU 0's: held wholly, the rest takes 4/3 of the time.
  EXPECT_EQ(Listener(trace, milliseconds(20)).run(20, {1, 0}), Pages({7, 8, 9}));
}

TEST(TraceReplay, NotKnowingWhoWritesAllAreAlike) {
  DirtyTrace trace = three_samples();
  for (TraceSample& sample : trace.samples) sample.by_vcpu.clear();
  EXPECT_EQ(Listener(trace).run(20, {1, 0}), Pages({0, 1, 5}));
}

TEST(TraceReplay, HeldWhollyNothingIsWritten) {
  const DirtyTrace trace = three_samples();
  EXPECT_EQ(Listener(trace).run(1e6, {1, 1}), Pages());
}

TEST(TraceReplay, AGuestThatWritesNothingWritesNothing) {
  DirtyTrace trace = testing::plain_trace(100, milliseconds(10));
  EXPECT_EQ(Listener(trace, milliseconds(50)).run(1e6), Pages());
  trace.samples.push_back({milliseconds(10), {}, {}});
  EXPECT_EQ(Listener(trace).run(1e6), Pages());
}

}  // namespace
}  // namespace migrate::forecast
