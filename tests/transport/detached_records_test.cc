// Records that nobody waits for, and a wait that ends in the middle of one.
#include <gtest/gtest.h>

#include <thread>

#include "tests/transport/channel_io.hpp"
#include "transport/record_channel.hpp"

namespace migrate::test {
namespace {

const wire::Hasher kHasher = [] {
  wire::SessionRandom random;
  random.bytes.fill(std::byte{1});
  return wire::Hasher(random, random);
}();

class DetachedRecords : public testing::Test {
 protected:
  DetachedRecords() {
    auto pair = make_channel_pair();
    EXPECT_TRUE(pair);
    near_ = std::make_unique<RecordChannel>(std::move(pair->first), kHasher);
    far_ = std::make_unique<RecordChannel>(std::move(pair->second), kHasher);
  }
  /// More than any socket's buffer, one chunk after another.
  static constexpr std::size_t kChunks = 16;
  static constexpr std::size_t kChunkBytes = 1 << 20;
  void send_chunks() {
    for (std::size_t i = 0; i < kChunks; ++i) {
      ASSERT_TRUE(near_->send_section_data(random_bytes(kChunkBytes, i + 1), kLong));
    }
  }
  void expect_chunks() {
    for (std::size_t i = 0; i < kChunks; ++i) {
      const auto record = far_->receive(kLong);
      ASSERT_TRUE(record) << record.error().to_text();
      const auto sent = random_bytes(kChunkBytes, i + 1);
      EXPECT_TRUE(std::equal(record->body.begin(), record->body.end(), sent.begin(), sent.end()));
    }
  }
  Status send_raw(std::span<const std::byte> bytes) {
    return near_->channel().send(one_part(bytes), kLong);
  }
  static auto now() { return std::chrono::steady_clock::now(); }

  std::unique_ptr<RecordChannel> near_;
  std::unique_ptr<RecordChannel> far_;
};

TEST_F(DetachedRecords, ReturnAtOnceThoughNobodyReadsAndArriveWholeAndInOrder) {
  near_->set_detached(true);
  send_chunks();  // Nobody reads: it would never return.
  ASSERT_TRUE(near_->send(wire::Commit{1}, kLong));
  expect_chunks();
  EXPECT_EQ(far_->expect<wire::Commit>(kLong)->attempt, 1u);
  ASSERT_TRUE(near_->send(wire::Commit{2}, kLong));
  EXPECT_EQ(far_->expect<wire::Commit>(kLong)->attempt, 2u);
}

TEST_F(DetachedRecords, WhatIsLeftOfThemGoesBeforeWhatIsSentLater) {
  near_->set_detached(true);
  send_chunks();
  near_->set_detached(false);
  std::thread later([this] { EXPECT_TRUE(near_->send(wire::Commit{1}, kLong)); });
  expect_chunks();
  EXPECT_EQ(far_->expect<wire::Commit>(kLong)->attempt, 1u);
  later.join();
}

TEST_F(DetachedRecords, APeerThatIsGoneIsToldByALaterSend) {
  near_->set_detached(true);
  send_chunks();
  far_.reset();
  near_->set_detached(false);
  const Status sent = near_->send(wire::Commit{1}, kLong);
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::kLinkLost);
}

TEST_F(DetachedRecords, TheChannelMayGoBeforeTheyHaveLeft) {
  near_->set_detached(true);
  send_chunks();
  near_.reset();
  const auto record = far_->receive(kLong);
  ASSERT_FALSE(record);
  EXPECT_EQ(record.error().code, ErrorCode::kLinkLost);
}

TEST_F(DetachedRecords, AWaitThatEndsWithinARecordLosesNothing) {
  std::vector<std::byte> alive, commit;
  ASSERT_TRUE(wire::encode_record(wire::Alive{}, 0, kHasher, alive));
  ASSERT_TRUE(wire::encode_record(wire::Commit{7}, 1, kHasher, commit));
  // A sign of life, and the record's bytes one after the other.
  ASSERT_TRUE(send_raw(alive));
  for (const std::byte& one : commit) {
    EXPECT_EQ(far_->receive_whole(now() + std::chrono::milliseconds(1)).error().code,
              ErrorCode::kTimeout);
    ASSERT_TRUE(send_raw({&one, 1}));
  }
  const auto record = far_->receive_whole(now() + kLong);
  ASSERT_TRUE(record) << record.error().to_text();
  EXPECT_EQ(wire::decode<wire::Commit>(record->body)->attempt, 7u);
  // One that lies there is taken though the time is over.
  std::vector<std::byte> next;
  ASSERT_TRUE(wire::encode_record(wire::Commit{8}, 2, kHasher, next));
  ASSERT_TRUE(send_raw(next));
  ASSERT_TRUE(far_->has_news(kLong));
  EXPECT_TRUE(far_->receive_whole(now()));
}

TEST_F(DetachedRecords, ALongRecordDoesNotKeepAWaitForAShortOne) {
  ASSERT_TRUE(near_->send_section_data(random_bytes(60'000), kLong));
  ASSERT_TRUE(near_->send(wire::Commit{1}, kLong));
  EXPECT_EQ(far_->receive_whole(now() + kLong).error().code, ErrorCode::kProtocol);
}

}  // namespace
}  // namespace migrate::test
