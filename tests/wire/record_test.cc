#include "wire/record.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/wire/sample_messages.hpp"
#include "wire/codec.hpp"
#include "wire/ids.hpp"
#include "wire/limits.hpp"

namespace migrate::wire {
namespace {

using ::testing::HasSubstr;

Hasher session_hasher() {
  testing::Samples samples(99);
  const SessionRandom source = samples.secret_half();
  return Hasher(source, samples.secret_half());
}

using HeaderBytes = std::array<std::byte, kRecordHeaderBytes>;

HeaderBytes header(std::uint16_t type, std::uint16_t flags, std::uint32_t length,
                   std::uint64_t sequence) {
  HeaderBytes bytes{};
  store_u16(bytes.data(), type);
  store_u16(bytes.data() + 2, flags);
  store_u32(bytes.data() + 4, length);
  store_u64(bytes.data() + 8, sequence);
  return bytes;
}

std::string complaint(const HeaderBytes& bytes, std::uint64_t sequence = 7) {
  const auto decoded = decode_header(bytes, sequence);
  return decoded ? std::string() : decoded.error().to_text();
}

constexpr std::uint16_t kPing = 0x0008;
constexpr std::uint16_t kHello = 0x0001;

TEST(RecordHeaderTest, LooksAsSpecified) {
  const auto bytes = encode_header(RecordType::kPing, 16, 0x0102030405060708, {}, session_hasher());
  EXPECT_EQ(bytes[0], std::byte{0x08});
  EXPECT_EQ(bytes[1], std::byte{0x00});
  EXPECT_EQ(bytes[2], std::byte{0x01});
  EXPECT_EQ(bytes[4], std::byte{16});
  EXPECT_EQ(bytes[8], std::byte{0x08});
  EXPECT_EQ(bytes[15], std::byte{0x01});
}

TEST(RecordHeaderTest, UnknownMandatoryTypeIsRefusedUnknownOptionalOneIsNot) {
  EXPECT_THAT(complaint(header(0x0099, 1, 0, 7)), HasSubstr("type 153 is not known"));
  EXPECT_THAT(complaint(header(0x0000, 0, 0, 7)), HasSubstr("type 0 is not known"));
  const auto optional = decode_header(header(0x8099, 1, 100, 7), 7);
  ASSERT_TRUE(optional);
  EXPECT_FALSE(optional->known());
}

TEST(RecordHeaderTest, SomethingElseThanMigrateIsNamedSo) {
  HeaderBytes bytes{};
  std::memcpy(bytes.data(), "GET / HTTP/1.1\r\nHost: a\r\n", bytes.size());
  EXPECT_THAT(complaint(bytes, 0), HasSubstr("does not speak migrate's protocol"));
}

TEST(RecordHeaderTest, LengthBeyondTheTypesLimitIsRefusedBeforeAllocation) {
  EXPECT_EQ(complaint(header(kPing, 1, 16, 7)), "");
  EXPECT_THAT(complaint(header(kPing, 1, 17, 7)), HasSubstr("byte 4"));
  EXPECT_THAT(complaint(header(0x0011, 1, 0xFFFFFFFF, 7)), HasSubstr("beyond its limit"));
  EXPECT_THAT(complaint(header(0x8099, 1, kOptionalBytesMax + 1, 7)),
              HasSubstr("beyond its limit"));
  EXPECT_THAT(complaint(header(0x0011, 1, 39, 7)), HasSubstr("no room for a batch"));
}

TEST(RecordHeaderTest, WrongSequenceIsRefused) {
  EXPECT_THAT(complaint(header(kPing, 1, 16, 8)), HasSubstr("sequence 8 instead of 7"));
  EXPECT_THAT(complaint(header(kPing, 1, 16, 6)), HasSubstr("byte 8"));
}

TEST(RecordHeaderTest, FlagsMustFitTheType) {
  EXPECT_THAT(complaint(header(kPing, 0, 16, 7)), HasSubstr("byte 2"));
  EXPECT_THAT(complaint(header(kPing, 3, 16, 7)), HasSubstr("byte 2"));
  EXPECT_THAT(complaint(header(kHello, 1, 200, 7)), HasSubstr("byte 2"));
}

TEST(RecordChecksum, DependsOnTheSessionsSecret) {
  const std::vector<std::byte> body(16, std::byte{5});
  const auto bytes = encode_header(RecordType::kPing, 16, 7, body, session_hasher());
  const auto decoded = decode_header(bytes, 7);
  ASSERT_TRUE(decoded);
  EXPECT_TRUE(check_record(*decoded, body, session_hasher()));
  testing::Samples samples(98);
  const SessionRandom other = samples.secret_half();
  const Status wrong = check_record(*decoded, body, Hasher(other, samples.secret_half()));
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code, ErrorCode::kIntegrity);
  EXPECT_THAT(wrong.error().message, HasSubstr("PING record 7"));
  const Status early = check_record(*decoded, body, Hasher());
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().code, ErrorCode::kProtocol);
}

TEST(RecordChecksum, OfAnErrorWorksBeforeAndAfterTheSecretIsAgreed) {
  const std::vector<std::byte> body(20);
  const auto early = decode_header(encode_header(RecordType::kError, 20, 0, body, Hasher()), 0);
  ASSERT_TRUE(early);
  EXPECT_FALSE(early->keyed());
  EXPECT_TRUE(check_record(*early, body, session_hasher()));
  const auto late =
      decode_header(encode_header(RecordType::kError, 20, 0, body, session_hasher()), 0);
  ASSERT_TRUE(late);
  EXPECT_TRUE(late->keyed());
  EXPECT_TRUE(check_record(*late, body, session_hasher()));
}

TEST(SessionIdText, ComesBack) {
  SessionId session;
  session.bytes[0] = std::byte{0xAB};
  session.bytes[15] = std::byte{0x01};
  EXPECT_EQ(to_text(session), "ab000000000000000000000000000001");
  EXPECT_EQ(*parse_session_id(to_text(session)), session);
  EXPECT_FALSE(parse_session_id("ab"));
  EXPECT_FALSE(parse_session_id("zb000000000000000000000000000001"));
}

TEST(JoinSecretTest, EqualOnlyWhenAllBytesAre) {
  JoinSecret a;
  JoinSecret b;
  EXPECT_TRUE(equal(a, b));
  for (std::byte& byte : b.bytes) {
    byte = std::byte{0x80};
    EXPECT_FALSE(equal(a, b));
    byte = std::byte{0};
  }
}

}  // namespace
}  // namespace migrate::wire
