// The target's bulk lanes: what a source must not say, and barriers.
#include "transport/bulk_receivers.hpp"

#include <gmock/gmock.h>

#include "tests/transport/bulk_lanes.hpp"

namespace migrate::test {
namespace {

using testing::HasSubstr;

/// A source's lane that says what it is told to.
class ScriptedLane {
 public:
  explicit ScriptedLane(RecordChannel& channel) : channel_(channel) {}
  Status page(std::uint64_t number, std::byte value, wire::RegionHandle region = kHandle,
              std::uint32_t round = 0, std::uint64_t hash_error = 0) {
    const Bytes content(kPageSize, value);
    const std::uint64_t hash = kDigest.hash(content);
    wire::PagesEncoder encoder;
    encoder.begin(region, round);
    encoder.add_raw(number, hash ^ hash_error);
    ++pages_;
    change_ += kDigest.change(region, number, kDigest.zero_hash(), hash);
    return channel_.send_pages(encoder, one_part(content), kLong);
  }
  Status barrier(std::uint32_t round = 0, bool final = false, std::uint64_t pages_error = 0) {
    return channel_.send(wire::Barrier{round, final, pages_ + pages_error, change_}, kLong);
  }
  RecordChannel& channel() { return channel_; }

 private:
  RecordChannel& channel_;
  std::uint64_t pages_ = 0;
  std::uint64_t change_ = 0;
};

struct WrongSource {
  const char* name;
  std::function<Status(ScriptedLane& one, ScriptedLane& other)> speak;
  ErrorCode code;
  const char* says;
};

const WrongSource kWrongSources[] = {
    {"ARecordOfTheControlLane",
     [](ScriptedLane& one, ScriptedLane&) { return one.channel().send(wire::Commit{1}, kLong); },
     ErrorCode::kProtocol, "COMMIT where PAGES"},
    {"AnUnknownRegion",
     [](ScriptedLane& one, ScriptedLane&) {
       return one.page(0, std::byte{1}, wire::RegionHandle{7});
     },
     ErrorCode::kProtocol, "region handle 7"},
    {"APageBeyondItsRegion",
     [](ScriptedLane& one, ScriptedLane&) { return one.page(kPages, std::byte{1}); },
     ErrorCode::kProtocol, ""},
    {"APageOfALaterRound",
     [](ScriptedLane& one, ScriptedLane&) { return one.page(0, std::byte{1}, kHandle, 1); },
     ErrorCode::kProtocol, "round 1 in round 0"},
    {"APageTwiceOnOneLane",
     [](ScriptedLane& one, ScriptedLane&) -> Status {
       MIGRATE_TRY(one.page(3, std::byte{1}));
       return one.page(3, std::byte{1});
     },
     ErrorCode::kProtocol, "of region 0:1.0 came twice"},
    {"APageOnTwoLanes",
     [](ScriptedLane& one, ScriptedLane& other) -> Status {
       MIGRATE_TRY(one.page(3, std::byte{1}));
       return other.page(3, std::byte{1});
     },
     ErrorCode::kProtocol, "of region 0:1.0 came twice"},
    {"APageWithAnothersHash",
     [](ScriptedLane& one, ScriptedLane&) { return one.page(0, std::byte{1}, kHandle, 0, 1); },
     ErrorCode::kIntegrity, "another content than was sent"},
    {"ABarrierOfAnotherRound", [](ScriptedLane& one, ScriptedLane&) { return one.barrier(1); },
     ErrorCode::kProtocol, "does not fit"},
    {"ABarrierThatCountsOtherwise",
     [](ScriptedLane& one, ScriptedLane&) { return one.barrier(0, false, 1); },
     ErrorCode::kIntegrity, "does not fit"},
    {"LanesThatDisagreeOnTheLastRound",
     [](ScriptedLane& one, ScriptedLane& other) -> Status {
       MIGRATE_TRY(one.barrier(0, true));
       return other.barrier(0, false);
     },
     ErrorCode::kProtocol, "disagree"},
    {"ALaneThatClosesWithinARecord",
     [](ScriptedLane& one, ScriptedLane&) -> Status {
       Bytes record;
       MIGRATE_TRY(wire::encode_record(wire::Barrier{}, 0, kHasher, record));
       MIGRATE_TRY(send_bytes(one.channel().channel(), std::span(record).first(30)));
       one.channel().channel().shutdown();
       return {};
     },
     ErrorCode::kLinkLost, ""},
    {"ALaneThatClosesBeforeItsBarrier",
     [](ScriptedLane& one, ScriptedLane& other) -> Status {
       one.channel().channel().shutdown();
       return other.barrier();
     },
     ErrorCode::kLinkLost, "closed"},
};

class WrongSources : public BulkLanes, public testing::WithParamInterface<WrongSource> {};

TEST_P(WrongSources, EndTheSessionAndTheirOtherLanes) {
  const auto threads = threads_now();
  connect(2);
  make_receivers();
  ScriptedLane one(*near_[0]);
  ScriptedLane other(*near_[1]);
  ASSERT_TRUE(GetParam().speak(one, other));
  const auto arrived = receivers_->wait_for_barrier(0, false);
  ASSERT_FALSE(arrived);
  EXPECT_EQ(arrived.error().code, GetParam().code) << arrived.error().to_text();
  EXPECT_THAT(arrived.error().message, HasSubstr(GetParam().says));
  receivers_->stop();
  EXPECT_TRUE(threads_become(threads));
  EXPECT_LE(failures_, 1);
  // The other lane has ended as well.
  EXPECT_EQ(near_[1]->receive(kLong).error().code, ErrorCode::kLinkLost);
}

INSTANTIATE_TEST_SUITE_P(All, WrongSources, testing::ValuesIn(kWrongSources),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_F(BulkLanes, NothingBeyondABarrierIsAppliedBeforeAllLanesHaveReachedIt) {
  connect(2);
  make_receivers();
  fill(0, 1, 1);
  const Bytes page(source_memory_.page(0).begin(), source_memory_.page(0).end());
  const std::uint64_t hash = kDigest.hash(page);
  const std::uint64_t change = kDigest.change(kHandle, 0, kDigest.zero_hash(), hash);
  ASSERT_TRUE(near_[0]->send(wire::Barrier{0, false, 0, 0}, kLong));
  wire::PagesEncoder encoder;
  encoder.begin(kHandle, 1);
  encoder.add_raw(0, hash);
  ASSERT_TRUE(near_[0]->send_pages(encoder, one_part(page), kLong));
  ASSERT_TRUE(near_[0]->send(wire::Barrier{1, false, 1, change}, kLong));
  ASSERT_TRUE(near_[1]->send(wire::Barrier{0, false, 0, 0}, kLong));
  ASSERT_TRUE(receivers_->wait_for_barrier(0, false));
  EXPECT_EQ(target_ledger_.find(kHandle.number)->hashes[0], kDigest.zero_hash());
  EXPECT_TRUE(target_memory_.bytes == Bytes(kPages * kPageSize));
  receivers_->pass_barrier();
  ASSERT_TRUE(near_[1]->send(wire::Barrier{1, false, 0, 0}, kLong));
  const auto arrived = receivers_->wait_for_barrier(1, false);
  ASSERT_TRUE(arrived) << arrived.error().to_text();
  EXPECT_EQ(arrived->carried, 1u);
  EXPECT_TRUE(source_memory_.bytes == target_memory_.bytes);
}

TEST_F(BulkLanes, ASilentSourceIsGivenUpWhileLanesStandAtTheBarrier) {
  connect(2);
  make_receivers(std::chrono::milliseconds(100));
  ASSERT_TRUE(near_[0]->send(wire::Barrier{0, false, 0, 0}, kLong));
  const auto arrived = receivers_->wait_for_barrier(0, false);
  ASSERT_FALSE(arrived);
  EXPECT_EQ(arrived.error().code, ErrorCode::kTimeout) << arrived.error().to_text();
  EXPECT_EQ(failures_, 0);
}

TEST_F(BulkLanes, WaitingForABarrierEndsWhenItIsToldTo) {
  for (const ErrorCode code : {ErrorCode::kCancelled, ErrorCode::kLinkLost}) {
    connect(2);
    make_receivers();
    std::jthread other(
        [&] { code == ErrorCode::kCancelled ? receivers_->cancel() : receivers_->abandon(); });
    EXPECT_EQ(receivers_->wait_for_barrier(0, false).error().code, code);
    other.join();
    receivers_.reset();
    near_.clear();
    far_.clear();
  }
  EXPECT_EQ(failures_, 0);
}

}  // namespace
}  // namespace migrate::test
