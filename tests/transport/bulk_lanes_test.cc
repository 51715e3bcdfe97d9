// Bulk lanes on sockets: all pages arrive, and one lane's failure is the whole source's.
#include "tests/transport/bulk_lanes.hpp"

namespace migrate::test {
namespace {

// ---- Both sides.

struct Shape {
  std::size_t lanes;
  bool source_mapped;
  bool target_mapped;
};

class BulkRounds : public BulkLanes, public testing::WithParamInterface<Shape> {};

TEST_P(BulkRounds, ArriveWholeAndLeaveNoThread) {
  const auto threads = threads_now();
  source_memory_.is_mapped = GetParam().source_mapped;
  target_memory_.is_mapped = GetParam().target_mapped;
  connect(GetParam().lanes);
  make_senders();
  make_receivers();
  for (std::uint32_t round = 0; round < 4; ++round) {
    round_set_.clear_all();
    fill(round * 70, 300, round + 1);
    for (std::uint64_t first = 0; first < 300; first += 30) {
      ASSERT_TRUE(senders_->submit(batch(round * 70 + first, 30, round)));
    }
    const bool final = round == 3;
    const auto sent = senders_->finish_round(round, final);
    ASSERT_TRUE(sent) << sent.error().to_text();
    const auto arrived = receivers_->wait_for_barrier(round, final);
    ASSERT_TRUE(arrived) << arrived.error().to_text();
    EXPECT_EQ(sent->raw, 300u);
    EXPECT_EQ(arrived->raw, 300u);
    EXPECT_EQ(arrived->carried, sent->carried);
    EXPECT_EQ(arrived->digest_change, sent->digest_change);
    EXPECT_EQ(arrived->wire_bytes, sent->wire_bytes);
    EXPECT_TRUE(source_memory_.bytes == target_memory_.bytes) << "after round " << round;
    receivers_->pass_barrier();
  }
  senders_.reset();
  receivers_.reset();
  EXPECT_TRUE(threads_become(threads));
}

INSTANTIATE_TEST_SUITE_P(Shapes, BulkRounds,
                         testing::Values(Shape{1, true, true}, Shape{2, true, false},
                                         Shape{3, false, true}, Shape{8, false, false}));

// ---- The source's lanes.

TEST_F(BulkLanes, ALaneThatBreaksEndsTheOthersToo) {
  const auto threads = threads_now();
  connect(3);
  make_senders();
  // Only this one: the others are read to their end.
  far_[1].reset();
  std::vector<std::jthread> readers;
  for (const std::size_t lane : {0u, 2u}) {
    readers.emplace_back([channel = &far_[lane]->channel()] { read_to_end(*channel); });
  }
  const Status sent = submit_without_end();
  EXPECT_EQ(sent.error().code, ErrorCode::kLinkLost) << sent.error().to_text();
  EXPECT_EQ(senders_->submit(batch(0, 1)).error().code, ErrorCode::kLinkLost);
  EXPECT_EQ(senders_->send_here(batch(0, 1)).error().code, ErrorCode::kLinkLost);
  EXPECT_EQ(senders_->finish_round(0, false).error().code, ErrorCode::kLinkLost);
  senders_.reset();
  readers.clear();
  EXPECT_TRUE(threads_become(threads));
}

TEST_F(BulkLanes, ATargetThatTakesNothingHoldsTheSourceUpUntilSomebodyEndsIt) {
  connect(2);
  int waits = 0;
  make_senders(
      [&]() -> Status { return ++waits < 3 ? Status() : make_error(ErrorCode::kGuest, "enough"); });
  const Status sent = submit_without_end();
  EXPECT_EQ(sent.error().code, ErrorCode::kGuest) << sent.error().to_text();
  EXPECT_EQ(waits, 3);
  senders_->cancel();
  EXPECT_EQ(senders_->drain().error().code, ErrorCode::kCancelled);
}

TEST_F(BulkLanes, ATargetThatTakesNothingForTooLongIsGivenUp) {
  connect(2);
  make_senders({}, std::chrono::milliseconds(100));
  const Status sent = submit_without_end();
  EXPECT_EQ(sent.error().code, ErrorCode::kTimeout) << sent.error().to_text();
}

TEST_F(BulkLanes, ACancelFromAnotherThreadEndsASourceThatWaits) {
  connect(2);
  std::atomic<bool> waited{false};
  make_senders([&]() -> Status {
    waited = true;
    return {};
  });
  std::jthread other([&] {
    while (!waited) std::this_thread::yield();
    senders_->cancel();
  });
  EXPECT_FALSE(submit_without_end());
  EXPECT_FALSE(senders_->finish_round(0, false));
}

}  // namespace
}  // namespace migrate::test
