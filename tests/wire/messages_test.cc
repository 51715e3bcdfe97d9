#include "wire/messages.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/wire/sample_messages.hpp"
#include "wire/negotiation.hpp"

namespace migrate::wire {
namespace {

using ::testing::HasSubstr;
using testing::Samples;

Hasher session_hasher() {
  Samples samples(99);
  const SessionRandom source = samples.secret_half();
  return Hasher(source, samples.secret_half());
}

template <typename Message>
std::vector<std::byte> record_of(const Message& message, std::uint64_t sequence = 5) {
  std::vector<std::byte> bytes;
  const Status status = encode_record(message, sequence, session_hasher(), bytes);
  EXPECT_TRUE(status) << status.error().to_text();
  return bytes;
}

template <typename Message>
std::vector<std::byte> body_of(const Message& message) {
  std::vector<std::byte> bytes = record_of(message);
  bytes.erase(bytes.begin(), bytes.begin() + kRecordHeaderBytes);
  return bytes;
}

std::span<const std::byte, kRecordHeaderBytes> header_of(std::span<const std::byte> record) {
  return record.first<kRecordHeaderBytes>();
}

template <typename Message>
class EveryMessage : public ::testing::Test {};
using AllMessages =
    ::testing::Types<Hello, Welcome, Join, Joined, Ask, Answer, ErrorRecord, Ping, Pong, Alive,
                     Regions, Barrier, BarrierAck, ResumeTerms, Resume, Resumed, Void, VoidEnd,
                     Voided, Lazy, LazyTerms, Demand, Installed, Complete, SectionBegin, SectionEnd,
                     StateEnd, Offer, Ready, Commit, Started, Released, Abort, Discarded, Forward>;
TYPED_TEST_SUITE(EveryMessage, AllMessages);

TYPED_TEST(EveryMessage, ComesBackAsItWasSent) {
  Samples samples(1);
  for (int i = 0; i < 50; ++i) {
    const std::vector<std::byte> record = record_of(samples.make<TypeParam>());
    const auto header = decode_header(header_of(record), 5);
    ASSERT_TRUE(header) << header.error().to_text();
    EXPECT_EQ(header->type, TypeParam::kType);
    const auto body = std::span(record).subspan(kRecordHeaderBytes);
    ASSERT_EQ(header->length, body.size());
    EXPECT_TRUE(check_record(*header, body, session_hasher()));
    const auto message = decode<TypeParam>(body);
    ASSERT_TRUE(message) << message.error().to_text();
    EXPECT_EQ(record_of(*message), record);
  }
}

TYPED_TEST(EveryMessage, IsRefusedWhenItIsCutAnywhereOrTooLong) {
  Samples samples(2);
  for (int i = 0; i < 5; ++i) {
    std::vector<std::byte> body = body_of(samples.make<TypeParam>());
    for (std::size_t size = 0; size < body.size(); ++size) {
      // A copy of exactly that size, so that a sanitizer sees a read past the end.
      const std::vector<std::byte> cut(body.begin(), body.begin() + size);
      const auto message = decode<TypeParam>(cut);
      ASSERT_FALSE(message) << "cut to " << size;
      EXPECT_EQ(message.error().code, ErrorCode::kProtocol);
      EXPECT_THAT(message.error().message, HasSubstr("byte "));
    }
    body.push_back(std::byte{0});
    EXPECT_FALSE(decode<TypeParam>(body));
  }
}

TYPED_TEST(EveryMessage, WithAFlippedByteIsRefusedOrIsAnotherValidMessage) {
  // Errors are repaired when they are read (see ErrorRecord), so they need not come back equal.
  constexpr bool kRepaired = std::is_same_v<TypeParam, ErrorRecord> ||
                             std::is_same_v<TypeParam, Abort> ||
                             std::is_same_v<TypeParam, Discarded>;
  Samples samples(3);
  for (int i = 0; i < 3; ++i) {
    const std::vector<std::byte> body = body_of(samples.make<TypeParam>());
    for (std::size_t at = 0; at < body.size(); ++at) {
      for (const int flip : {0x01, 0x02, 0x10, 0x80, 0xFF}) {
        std::vector<std::byte> flipped = body;
        flipped[at] ^= static_cast<std::byte>(flip);
        const auto message = decode<TypeParam>(flipped);
        if (!message) continue;
        const std::vector<std::byte> again = body_of(*message);
        ASSERT_TRUE(kRepaired || again == flipped) << "byte " << at;
      }
    }
  }
}

TYPED_TEST(EveryMessage, RecordWithAnyBitFlippedIsDetected) {
  Samples samples(4);
  const std::vector<std::byte> record = record_of(samples.make<TypeParam>());
  for (std::size_t bit = 0; bit < record.size() * 8; ++bit) {
    std::vector<std::byte> flipped = record;
    flipped[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    const auto header = decode_header(header_of(flipped), 5);
    if (!header || header->length != flipped.size() - kRecordHeaderBytes) continue;
    EXPECT_FALSE(
        check_record(*header, std::span(flipped).subspan(kRecordHeaderBytes), session_hasher()))
        << "bit " << bit;
  }
}

TYPED_TEST(EveryMessage, FitsTheLimitOfItsType) {
  Samples samples(5);
  for (int i = 0; i < 50; ++i) {
    EXPECT_LE(body_of(samples.make<TypeParam>()).size(), length_max(TypeParam::kType));
  }
}

TEST(MessageLimits, LargestMessagesFitTheirTypes) {
  Welcome welcome;
  welcome.random.bytes.fill(std::byte{1});
  welcome.host.assign(kNameBytesMax, 'h');
  EXPECT_EQ(body_of(welcome).size(), length_max(RecordType::kWelcome));
  EXPECT_EQ(body_of(SectionBegin{{std::string(kSectionNameBytesMax, 's'), 1, true}}).size(),
            length_max(RecordType::kSectionBegin));
  const Error error =
      make_error(ErrorCode::kIo, std::string(9999, 'm')).advise(std::string(9999, 'r'));
  EXPECT_EQ(body_of(ErrorRecord{error}).size(), length_max(RecordType::kError));
  EXPECT_EQ(body_of(Abort{1, AbortScope::kAttempt, error}).size(), length_max(RecordType::kAbort));
  EXPECT_EQ(body_of(Discarded{1, AbortScope::kAttempt, error}).size(),
            length_max(RecordType::kDiscarded));

  Hello hello;
  hello.random.bytes.fill(std::byte{1});
  hello.host.assign(kNameBytesMax, 'h');
  hello.guest.name.assign(kNameBytesMax, 'g');
  hello.guest.regions.assign(kRegionsMax, Region{{}, {GuestPage{0}, 1}, Backing::kMemfd});
  hello.guest.properties.resize(kPropertiesMax);
  for (auto& property : hello.guest.properties) {
    property.info.name.assign(kSectionNameBytesMax, 'p');
    property.body.resize(kPropertiesBytesMax / kPropertiesMax);
  }
  EXPECT_LE(body_of(hello).size(), kHelloBytesMax);
  Regions regions;
  regions.added = hello.guest.regions;
  regions.removed.resize(kRegionsMax);
  EXPECT_LE(body_of(regions).size(), kRegionsBytesMax);

  LazyTerms terms;
  terms.granules.assign(kRegionsMax, {RegionHandle{1}, kGranulePagesMax});
  EXPECT_EQ(body_of(terms).size(), length_max(RecordType::kLazyTerms));
  Demand demand;
  demand.wanted.assign(kDemandsMax, {RegionHandle{1}, kPageNumberMax - 1, kGranulePagesMax});
  EXPECT_EQ(body_of(demand).size(), length_max(RecordType::kDemand));
  Installed installed;
  installed.words.assign(kVoidWordsMax, 0);
  EXPECT_EQ(body_of(installed).size(), length_max(RecordType::kInstalled));
  Complete complete;
  complete.stall_us.assign(kStallsMax, 0);
  EXPECT_EQ(body_of(complete).size(), length_max(RecordType::kComplete));
}

TEST(MessageLimits, FixedMessagesHaveExactlyTheLimitOfTheirType) {
  Samples samples(6);
  const auto exact = [&](const auto& message) {
    using Message = std::remove_cvref_t<decltype(message)>;
    EXPECT_EQ(body_of(message).size(), length_max(Message::kType)) << to_string(Message::kType);
  };
  exact(samples.make<Join>());
  exact(samples.make<Joined>());
  exact(samples.make<Ask>());
  exact(samples.make<Answer>());
  exact(samples.make<Ping>());
  exact(samples.make<Pong>());
  exact(samples.make<Alive>());
  exact(samples.make<Barrier>());
  exact(samples.make<BarrierAck>());
  exact(samples.make<SectionEnd>());
  exact(samples.make<StateEnd>());
  exact(samples.make<Offer>());
  exact(samples.make<Ready>());
  exact(samples.make<Commit>());
  exact(samples.make<Started>());
  exact(samples.make<Released>());
  exact(samples.make<Lazy>());
}

TEST(MessageLimits, WhatIsBeyondThemCannotBeSent) {
  std::vector<std::byte> out;
  Samples samples(7);
  Hello hello = samples.make<Hello>();
  hello.guest.name.assign(kNameBytesMax + 1, 'g');
  const Status name = encode_record(hello, 0, Hasher(), out);
  ASSERT_FALSE(name);
  EXPECT_EQ(name.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(name.error().message, HasSubstr("guest name"));

  hello = samples.make<Hello>();
  hello.guest.properties.resize(3);
  for (auto& property : hello.guest.properties) {
    property.info.name = "cpuid";
    property.body.resize(kPropertyBytesMax);
  }
  EXPECT_FALSE(encode_record(hello, 0, Hasher(), out)) << "properties are too long together";

  EXPECT_FALSE(encode_record(SectionBegin{{"", 1, true}}, 0, session_hasher(), out));
  EXPECT_FALSE(encode_record(SectionBegin{{"Upper", 1, true}}, 0, session_hasher(), out));
}

TEST(MessageLimits, LazyPagesBeyondThemAreNeitherSentNorRead) {
  const auto refused = [](const auto& message) {
    std::vector<std::byte> out;
    return !encode_record(message, 0, session_hasher(), out);
  };
  EXPECT_TRUE(refused(Lazy{1, kResumeWindowMsMax + 1, false}));
  for (const std::uint32_t pages : {0u, 1u, 3u, kGranulePagesMax + 1, 2 * kGranulePagesMax}) {
    EXPECT_TRUE(refused(LazyTerms{{{RegionHandle{0}, pages}}})) << pages;
  }
  EXPECT_TRUE(refused(Demand{{{RegionHandle{0}, 0, 0}}}));
  EXPECT_TRUE(refused(Demand{{{RegionHandle{0}, 0, kGranulePagesMax + 1}}}));
  EXPECT_TRUE(refused(Demand{{{RegionHandle{0}, kPageNumberMax, 1}}}));
  EXPECT_TRUE(refused(Installed{RegionHandle{0}, 63, {1}}));
  Demand many;
  many.wanted.resize(kDemandsMax + 1);
  EXPECT_TRUE(refused(many));
  Complete stalls;
  stalls.stall_us.resize(kStallsMax + 1);
  EXPECT_TRUE(refused(stalls));

  // The same from a peer, who writes what it likes.
  std::vector<std::byte> body = body_of(LazyTerms{{{RegionHandle{0}, 4}}});
  body[8] = std::byte{5};
  EXPECT_FALSE(decode<LazyTerms>(body));
  body = body_of(Demand{{{RegionHandle{0}, 0, 1}}});
  body[16] = std::byte{0};
  EXPECT_FALSE(decode<Demand>(body));
  body = body_of(Demand{});
  const std::uint32_t count = 0xFFFFFFFF;
  std::memcpy(body.data(), &count, 4);
  EXPECT_FALSE(decode<Demand>(body));
}

TEST(MessageLimits, ACountIsNotBelievedBeyondTheBytesThere) {
  // 2^32-1, the limit's neighbour, and a count within the limit that the record cannot hold.
  for (const std::uint32_t count : {0xFFFFFFFFu, 16385u, 16384u, 1u}) {
    std::vector<std::byte> body(4 + 4 + 8);
    std::memcpy(body.data() + 4, &count, 4);
    const auto regions = decode<Regions>(body);
    ASSERT_FALSE(regions);
    EXPECT_THAT(regions.error().message, HasSubstr("byte 28"));
  }
}

TEST(Hello, OfAnotherVersionIsRefusedWhateverFollows) {
  Samples samples(8);
  std::vector<std::byte> body = body_of(samples.make<Hello>());
  body.resize(40);
  body[8] = std::byte{2};   // version_min
  body[10] = std::byte{3};  // version_max
  const auto hello = decode<Hello>(body);
  ASSERT_FALSE(hello);
  EXPECT_EQ(hello.error().code, ErrorCode::kVersionMismatch);
  EXPECT_THAT(hello.error().message, HasSubstr("2 to 3"));
  EXPECT_FALSE(hello.error().remedy.empty());
}

TEST(Hello, WithAnotherMagicIsRefused) {
  Samples samples(9);
  std::vector<std::byte> body = body_of(samples.make<Hello>());
  body[7] = std::byte{'2'};
  const auto hello = decode<Hello>(body);
  ASSERT_FALSE(hello);
  EXPECT_THAT(hello.error().message, HasSubstr("not migrate's protocol"));
}

TEST(Hello, WithoutRandomnessIsRefused) {
  Samples samples(10);
  Hello hello = samples.make<Hello>();
  hello.random = {};
  std::vector<std::byte> out;
  EXPECT_FALSE(encode_record(hello, 0, Hasher(), out));
}

TEST(Hello, CarriesTheWholeDescription) {
  Samples samples(11);
  const Hello hello = samples.make<Hello>();
  const auto read = decode<Hello>(body_of(hello));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->session, hello.session);
  EXPECT_EQ(read->guest.name, hello.guest.name);
  EXPECT_EQ(read->guest.regions, hello.guest.regions);
  EXPECT_EQ(read->guest.vcpus, hello.guest.vcpus);
  EXPECT_EQ(read->limits, hello.limits);
}

TEST(RegionOnTheWire, ThatRunsOverTheAddressSpaceIsRefused) {
  std::vector<std::byte> out;
  Regions regions;
  regions.added = {Region{{}, {GuestPage{kPageNumberMax - 1}, 2}, Backing::kMemfd}};
  EXPECT_FALSE(encode_record(regions, 0, session_hasher(), out));
  regions.added = {Region{{}, {GuestPage{7}, 0}, Backing::kMemfd}};
  EXPECT_FALSE(encode_record(regions, 0, session_hasher(), out));
  regions.added = {Region{{}, {GuestPage{kPageNumberMax - 2}, 2}, Backing::kMemfd}};
  EXPECT_TRUE(encode_record(regions, 0, session_hasher(), out));
}

TEST(ErrorOnTheWire, KeepsItsWordsWhenItsNumbersAreOfALaterVersion) {
  std::vector<std::byte> body = body_of(ErrorRecord{make_error(ErrorCode::kIo, "disk full")});
  body[0] = std::byte{0xF0};
  body[2] = std::byte{0xF0};
  body[3] = std::byte{0xF0};
  const auto record = decode<ErrorRecord>(body);
  ASSERT_TRUE(record);
  EXPECT_EQ(record->error.code, ErrorCode::kInternal);
  EXPECT_EQ(record->error.phase, Phase::kNone);
  EXPECT_EQ(record->error.side, Side::kNone);
  EXPECT_EQ(record->error.message, "disk full");
}

TEST(ErrorOnTheWire, CannotDriveATerminalOrBreakJson) {
  const auto record =
      decode<ErrorRecord>(body_of(ErrorRecord{make_error(ErrorCode::kIo,
                                                         "a\x1b[2Jb\xff\xc3\xa9\nc\xc2\x9b"
                                                         "d\xed\xa0\x80")}));
  ASSERT_TRUE(record);
  EXPECT_EQ(record->error.message, "a?[2Jb?\xc3\xa9\nc??d???");
}

TEST(ErrorOnTheWire, IsClippedBetweenCharacters) {
  std::string message(kErrorMessageBytesMax - 1, 'x');
  message += "\xc3\xa9";
  const auto record =
      decode<ErrorRecord>(body_of(ErrorRecord{make_error(ErrorCode::kIo, message)}));
  ASSERT_TRUE(record);
  EXPECT_EQ(record->error.message, std::string(kErrorMessageBytesMax - 1, 'x'));
}

TEST(Names, WithControlCharactersOrBrokenUtf8AreRefused) {
  std::vector<std::byte> out;
  Samples samples(12);
  for (const char* name : {"a\nb", "a\x1b", "\xff", "\xc0\xaf", "\xf4\x90\x80\x80", "\xe2\x82"}) {
    Hello hello = samples.make<Hello>();
    hello.guest.name = name;
    EXPECT_FALSE(encode_record(hello, 0, Hasher(), out)) << name;
  }
  Hello hello = samples.make<Hello>();
  hello.guest.name =
      "gr\xc3\xbc\xc3\x9f"
      "e \xe2\x82\xac \xf0\x9f\x9a\x9a";
  EXPECT_TRUE(encode_record(hello, 0, Hasher(), out));
}

TEST(Negotiation, GrantsWhatBothSidesHave) {
  Samples samples(13);
  Hello hello = samples.make<Hello>();
  hello.page_size = kPageSize;
  hello.verify = VerifyMode::kDigest;
  hello.features = kFeatureVerifyFull | std::uint64_t{1} << 40;
  hello.encodings = kEncodingsBase | 1u << 9;
  hello.bulk_lanes = 8;
  hello.limits.batch_entries = 512;
  TargetTerms terms;
  terms.bulk_lanes_max = 4;
  terms.limits.batch_entries = 256;
  terms.limits.state_bytes = 1000;
  auto welcome = negotiate(hello, terms);
  ASSERT_TRUE(welcome);
  EXPECT_EQ(welcome->version, 1);
  EXPECT_EQ(welcome->features, kFeatureVerifyFull);
  EXPECT_EQ(welcome->encodings, kEncodingsBase);
  EXPECT_EQ(welcome->bulk_lanes, 4);
  EXPECT_EQ(welcome->limits.batch_entries, 256u);
  EXPECT_EQ(welcome->limits.state_bytes, 1000u);
  EXPECT_TRUE(check_welcome(hello, *welcome));

  welcome->bulk_lanes = 9;
  EXPECT_FALSE(check_welcome(hello, *welcome));
  welcome->bulk_lanes = 4;
  welcome->version = hello.version_max + 1;
  EXPECT_EQ(check_welcome(hello, *welcome).error().code, ErrorCode::kVersionMismatch);
}

TEST(Negotiation, AgreesOnWhatBothSidesKnowOfContent) {
  Hello hello;
  hello.encodings = kEncodingsKnown;
  hello.codecs = kCodecsKnown;
  TargetTerms terms;
  EXPECT_EQ(negotiate(hello, terms)->encodings, kEncodingsBase);
  EXPECT_EQ(negotiate(hello, terms)->codecs, kCodecsBase);
  terms.encodings = kEncodingsBase | set_of(PageEncoding::kDelta) | 1u << 9;
  terms.codecs = kCodecsKnown;
  auto welcome = negotiate(hello, terms);
  ASSERT_TRUE(welcome);
  EXPECT_EQ(welcome->encodings, kEncodingsBase | set_of(PageEncoding::kDelta));
  EXPECT_EQ(welcome->codecs, kCodecsKnown);
  EXPECT_TRUE(check_welcome(hello, *welcome));
  welcome->encodings |= 1u << 9;
  EXPECT_EQ(check_welcome(hello, *welcome).error().code, ErrorCode::kProtocol);
}

TEST(Negotiation, RefusesAnotherPageSizeAndMissingFeatures) {
  Hello hello;
  hello.page_size = 16384;
  EXPECT_EQ(negotiate(hello, {}).error().code, ErrorCode::kIncompatible);
  hello.page_size = kPageSize;
  hello.verify = VerifyMode::kFull;
  hello.features = kFeatureVerifyFull;
  TargetTerms terms;
  terms.features = 0;
  EXPECT_EQ(negotiate(hello, terms).error().code, ErrorCode::kUnsupported);
  Welcome welcome;
  EXPECT_EQ(check_welcome(hello, welcome).error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace migrate::wire
