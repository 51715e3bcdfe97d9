// Records on a socket: what is damaged, out of order, cut short or too slow is an error, and which.
#include "transport/record_channel.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <thread>

#include "tests/transport/channel_io.hpp"
#include "wire/digest.hpp"

namespace migrate::test {
namespace {

using testing::HasSubstr;
using Bytes = std::vector<std::byte>;

wire::Hasher hasher_of(std::byte seed) {
  wire::SessionRandom random;
  random.bytes.fill(seed);
  return wire::Hasher(random, random);
}
const wire::Hasher kHasher = hasher_of(std::byte{1});

Bytes record_of(const auto& message, std::uint64_t sequence, const wire::Hasher& hasher = kHasher) {
  Bytes bytes;
  EXPECT_TRUE(wire::encode_record(message, sequence, hasher, bytes));
  return bytes;
}

Bytes joined(std::initializer_list<Bytes> all) {
  Bytes bytes;
  for (const Bytes& part : all) bytes.insert(bytes.end(), part.begin(), part.end());
  return bytes;
}

/// A batch of raw pages of region 0, as it stands on the wire.
struct Batch {
  explicit Batch(std::uint64_t sequence, std::size_t pages) {
    const wire::PageDigest digest(kHasher);
    wire::PagesEncoder encoder;
    encoder.begin(wire::RegionHandle{0}, 0);
    for (std::size_t page = 0; page < pages; ++page) {
      const Bytes one = random_bytes(kPageSize, page + 1);
      encoder.add_raw(page, digest.hash(one));
      content.insert(content.end(), one.begin(), one.end());
    }
    const auto head = encoder.finish(sequence, kHasher);
    bytes.assign(head.begin(), head.end());
    bytes.insert(bytes.end(), content.begin(), content.end());
  }
  Bytes content;
  Bytes bytes;
};

class RecordChannelTest : public testing::Test {
 protected:
  RecordChannelTest() {
    auto pair = make_channel_pair();
    EXPECT_TRUE(pair);
    peer_ = std::move(pair->first);
    records_ = std::make_unique<RecordChannel>(std::move(pair->second), kHasher);
  }
  /// Takes one batch, head and content.
  Result<Bytes> receive_batch() {
    MIGRATE_ASSIGN(const auto record, records_->receive(kLong));
    if (record.header.type != wire::RecordType::kPages) {
      return RecordChannel::unexpected(record, wire::RecordType::kPages);
    }
    MIGRATE_ASSIGN(const auto head, records_->receive_batch_head(record.header, kLong));
    Bytes content(head.batch.content_bytes);
    iovec part{content.data(), content.size()};
    MIGRATE_TRY(records_->receive_content({&part, 1}, kLong));
    return content;
  }

  std::unique_ptr<Channel> peer_;
  std::unique_ptr<RecordChannel> records_;
};

// ---- Frames that are wrong.

struct WrongFrame {
  const char* name;
  std::function<Bytes()> bytes;
  ErrorCode code;
  const char* says;
};

Bytes commit_with(std::size_t at, std::initializer_list<int> values) {
  Bytes bytes = record_of(wire::Commit{7}, 0);
  for (const int value : values) bytes[at++] = static_cast<std::byte>(value);
  return bytes;
}

const WrongFrame kWrongFrames[] = {
    {"AnUnknownType",
     [] {
       return commit_with(0, {0x77, 0x07});
     },
     ErrorCode::kProtocol, "type"},
    {"FlagsOfNobody", [] { return commit_with(2, {0x81}); }, ErrorCode::kProtocol, "flags"},
    {"AKeyedTypeWithoutKey", [] { return commit_with(2, {0}); }, ErrorCode::kProtocol, "flags"},
    {"ALengthBeyondItsLimit",
     [] {
       return commit_with(4, {0xFF, 0xFF, 0xFF, 0xFF});
     },
     ErrorCode::kProtocol, "beyond its limit"},
    {"ABatchWithoutRoomForOne",
     [] {
       const auto header = wire::encode_header(wire::RecordType::kPages, 8, 0, {}, kHasher);
       return Bytes(header.begin(), header.end());
     },
     ErrorCode::kProtocol, "no room"},
    {"AGapInTheSequence", [] { return record_of(wire::Commit{7}, 1); }, ErrorCode::kProtocol,
     "sequence 1 instead of 0"},
    {"ADamagedChecksum",
     [] {
       Bytes bytes = record_of(wire::Commit{7}, 0);
       bytes[16] ^= std::byte{1};
       return bytes;
     },
     ErrorCode::kIntegrity, "damaged"},
    {"ADamagedBody",
     [] {
       Bytes bytes = record_of(wire::Commit{7}, 0);
       bytes.back() ^= std::byte{0x80};
       return bytes;
     },
     ErrorCode::kIntegrity, "damaged"},
    {"AnotherSessionsKey", [] { return record_of(wire::Commit{7}, 0, hasher_of(std::byte{2})); },
     ErrorCode::kIntegrity, "damaged"},
};

class WrongFrames : public RecordChannelTest, public testing::WithParamInterface<WrongFrame> {};

TEST_P(WrongFrames, AreNamed) {
  ASSERT_TRUE(send_bytes(*peer_, GetParam().bytes()));
  const auto record = records_->receive(kLong);
  ASSERT_FALSE(record);
  EXPECT_EQ(record.error().code, GetParam().code) << record.error().to_text();
  EXPECT_THAT(record.error().message, HasSubstr(GetParam().says));
  // Where the next record begins nobody knows any more.
  ASSERT_TRUE(send_bytes(*peer_, record_of(wire::Commit{8}, 1)));
  EXPECT_EQ(records_->receive(kLong).error().code, ErrorCode::kLinkLost);
}

INSTANTIATE_TEST_SUITE_P(All, WrongFrames, testing::ValuesIn(kWrongFrames),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_F(RecordChannelTest, ARecordThatComesTwiceIsNotTakenTwice) {
  const Bytes commit = record_of(wire::Commit{7}, 0);
  ASSERT_TRUE(send_bytes(*peer_, joined({commit, commit})));
  EXPECT_TRUE(records_->expect<wire::Commit>(kLong));
  EXPECT_EQ(records_->expect<wire::Commit>(kLong).error().code, ErrorCode::kProtocol);
}

TEST_F(RecordChannelTest, ADamagedTableIsNotLookedInto) {
  Batch batch(0, 3);
  batch.bytes[wire::kRecordHeaderBytes + wire::kBatchHeaderBytes] ^= std::byte{1};
  ASSERT_TRUE(send_bytes(*peer_, batch.bytes));
  EXPECT_EQ(receive_batch().error().code, ErrorCode::kIntegrity);
}

// ---- Records that are cut short.

TEST_F(RecordChannelTest, AConnectionThatClosesWithinARecordIsLostAtEveryByte) {
  const Bytes bytes = joined({record_of(wire::Commit{7}, 0), Batch(1, 1).bytes});
  const std::size_t second = record_of(wire::Commit{7}, 0).size();
  const std::size_t step = 97;
  for (std::size_t cut = 0; cut < bytes.size();
       cut += cut < second + wire::kRecordHeaderBytes + wire::kBatchHeaderBytes ? 1 : step) {
    auto pair = make_channel_pair();
    ASSERT_TRUE(pair);
    records_ = std::make_unique<RecordChannel>(std::move(pair->second), kHasher);
    ASSERT_TRUE(send_bytes(*pair->first, std::span(bytes).first(cut)));
    pair->first.reset();
    const auto commit = records_->expect<wire::Commit>(kLong);
    ASSERT_EQ(commit.has_value(), cut >= second) << cut;
    const ErrorCode code = commit ? receive_batch().error().code : commit.error().code;
    EXPECT_EQ(code, ErrorCode::kLinkLost) << cut;
  }
}

TEST_F(RecordChannelTest, RecordsMayComeByteByByte) {
  const Batch batch(2, 1);
  const auto optional =
      wire::encode_header(static_cast<wire::RecordType>(0x8777), 0, 1, {}, kHasher);
  const Bytes bytes = joined({record_of(wire::Commit{7}, 0),
                              {optional.begin(), optional.end()},
                              batch.bytes,
                              record_of(wire::Commit{8}, 3)});
  std::jthread sender([&] {
    for (const std::byte& byte : bytes) {
      ASSERT_TRUE(send_bytes(*peer_, {&byte, 1}));
      std::this_thread::yield();
    }
  });
  EXPECT_EQ(records_->expect<wire::Commit>(kLong)->attempt, 7u);
  const auto content = receive_batch();
  ASSERT_TRUE(content) << content.error().to_text();
  EXPECT_TRUE(*content == batch.content);
  EXPECT_EQ(records_->expect<wire::Commit>(kLong)->attempt, 8u);
  EXPECT_EQ(records_->received_bytes(), bytes.size());
}

TEST_F(RecordChannelTest, WhatTheNextRecordIsMayBeAskedWithoutTakingIt) {
  EXPECT_FALSE(records_->has_news());
  EXPECT_EQ(records_->next_type(kShort).error().code, ErrorCode::kTimeout);
  ASSERT_TRUE(send_bytes(*peer_, record_of(wire::Commit{7}, 0)));
  for (int i = 0; i < 2; ++i) {
    const auto type = records_->next_type(kLong);
    ASSERT_TRUE(type);
    EXPECT_EQ(*type, wire::RecordType::kCommit);
    EXPECT_TRUE(records_->has_news());
  }
  EXPECT_TRUE(records_->expect<wire::Commit>(kLong));
  EXPECT_FALSE(records_->has_news());
}

TEST_F(RecordChannelTest, AnInterruptBetweenRecordsLosesNothing) {
  std::jthread waiter(
      [&] { EXPECT_EQ(records_->receive(kLong).error().code, ErrorCode::kCancelled); });
  records_->channel().interrupt();
  waiter.join();
  records_->channel().resume_after_interrupt();
  ASSERT_TRUE(send_bytes(*peer_, record_of(wire::Commit{7}, 0)));
  EXPECT_TRUE(records_->expect<wire::Commit>(kLong));
}

TEST_F(RecordChannelTest, ThePeersErrorComesAsItWasSaid) {
  RecordChannel peer(std::move(peer_), kHasher);
  Error reason = make_error(ErrorCode::kBusy, "full").at(Phase::kSetup).on(Side::kTarget);
  ASSERT_TRUE(peer.send(wire::ErrorRecord{reason}, kLong));
  const auto record = records_->receive(kLong);
  ASSERT_FALSE(record);
  EXPECT_EQ(record.error().code, ErrorCode::kBusy);
  EXPECT_EQ(record.error().side, Side::kTarget);
  EXPECT_EQ(record.error().phase, Phase::kSetup);
  EXPECT_EQ(record.error().message, "full");
}

TEST_F(RecordChannelTest, WhatIsNotDueIsNamed) {
  RecordChannel peer(std::move(peer_), kHasher);
  ASSERT_TRUE(peer.send(wire::Commit{7}, kLong));
  const auto ack = records_->expect<wire::BarrierAck>(kLong);
  ASSERT_FALSE(ack);
  EXPECT_EQ(ack.error().code, ErrorCode::kProtocol);
  EXPECT_THAT(ack.error().message, HasSubstr("COMMIT where BARRIER_ACK"));
}

// ---- Sending.

TEST_F(RecordChannelTest, APeerThatTakesNothingEndsTheSendingForGood) {
  const Bytes page = random_bytes(kPageSize);
  Status sent;
  for (int i = 0; sent && i < 100'000; ++i) sent = records_->send_section_data(page, kShort);
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::kTimeout);
  // A record may have left in part, so nothing may follow it, though there be room.
  std::jthread reader([&] { read_to_end(*peer_); });
  const Status after = records_->send(wire::Commit{7}, kLong);
  EXPECT_EQ(after.error().code, ErrorCode::kLinkLost) << after.error().to_text();
  records_.reset();
}

TEST_F(RecordChannelTest, ASlowPeerGetsAllOfIt) {
  constexpr std::size_t kBatches = 40;
  RecordChannel sender(std::move(peer_), kHasher);
  std::jthread sending([&] {
    for (std::size_t i = 0; i < kBatches; ++i) {
      const Batch batch(i, wire::kBatchEntriesMax);
      const auto head = std::span(batch.bytes).first(batch.bytes.size() - batch.content.size());
      const auto content = one_part(batch.content);
      ASSERT_TRUE(sender.send_pages([&](std::uint64_t, const wire::Hasher&) { return head; },
                                    content, batch.content.size(), kLong));
    }
  });
  for (std::size_t i = 0; i < kBatches; ++i) {
    const auto content = receive_batch();
    ASSERT_TRUE(content) << content.error().to_text();
    ASSERT_EQ(content->size(), wire::kBatchEntriesMax * kPageSize);
  }
}

TEST_F(RecordChannelTest, WhatMayWaitLeavesWithTheNextRecordAndBeforeIt) {
  RecordChannel sender(std::move(peer_), kHasher);
  ASSERT_TRUE(sender.send_later(wire::Commit{1}, kLong));
  ASSERT_TRUE(sender.send_section_data(random_bytes(100), kLong));
  EXPECT_FALSE(records_->has_news(kShort));
  ASSERT_TRUE(sender.send(wire::Commit{2}, kLong));
  EXPECT_EQ(records_->expect<wire::Commit>(kLong)->attempt, 1u);
  const auto section = records_->receive(kLong);
  ASSERT_TRUE(section);
  EXPECT_EQ(section->header.type, wire::RecordType::kSectionData);
  EXPECT_EQ(section->body.size(), 100u);
  EXPECT_EQ(records_->expect<wire::Commit>(kLong)->attempt, 2u);
  EXPECT_EQ(sender.sent_bytes(), records_->received_bytes());
}

TEST_F(RecordChannelTest, MoreThanASendMayHoldLeavesAtOnce) {
  RecordChannel sender(std::move(peer_), kHasher);
  ASSERT_TRUE(sender.send_later(wire::Commit{1}, kLong));
  ASSERT_TRUE(sender.send_section_data(random_bytes(100'000), kLong));
  EXPECT_TRUE(records_->expect<wire::Commit>(kLong));
  EXPECT_EQ(records_->receive(kLong)->body.size(), 100'000u);
}

}  // namespace
}  // namespace migrate::test
