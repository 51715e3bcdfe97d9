#include "wire/page_content.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <vector>

#include "tests/wire/page_samples.hpp"
#include "tests/wire/sample_messages.hpp"
#include "wire/codec.hpp"
#include "wire/delta.hpp"
#include "wire/packing.hpp"

namespace migrate::wire {
namespace {

using testing::change;
using ::testing::HasSubstr;
using testing::Page;
using testing::random_page;
using testing::text_page;

using Bytes = std::vector<std::byte>;

constexpr AgreedContent kAll{kEncodingsKnown, kCodecsKnown};
constexpr std::uint64_t kRegionPages = 2000;
constexpr RegionHandle kRegion{3};

Hasher session_hasher() {
  testing::Samples samples(7);
  const SessionRandom source = samples.secret_half();
  return Hasher(source, samples.secret_half());
}

/// A batch as it goes over the wire, and what the target had and must have.
struct Sample {
  PagesEncoder encoder;
  Bytes raw;
  std::map<std::uint64_t, Page> before;
  std::map<std::uint64_t, Page> after;
};

void add_entry(Sample& sample, std::uint64_t page, std::mt19937_64& random) {
  Page& after = sample.after[page];
  switch (random() % 4) {
    case 0:
      after = text_page(random);
      sample.encoder.add_raw(page, page);
      sample.raw.insert(sample.raw.end(), after.begin(), after.end());
      return;
    case 1:
      after = {};
      sample.encoder.add_zeros(page, 1);
      return;
    case 2: {
      after = sample.before[page] = random_page(random);
      change(after, random() % kPageSize, 1 + random() % 500, random);
      std::array<std::byte, kDeltaPaysBytes> delta;
      const std::size_t size = encode_delta(sample.before[page], after, delta);
      sample.encoder.add_delta(page, page, std::span(delta).first(size));
      return;
    }
    default: {
      const std::uint64_t original = kRegionPages + random() % 100;
      after = sample.before.try_emplace(original, random_page(random)).first->second;
      sample.encoder.add_duplicate(page, page, {RegionHandle{5}, original});
      return;
    }
  }
}

void make(Sample& sample, std::uint64_t entries, std::mt19937_64& random) {
  sample.encoder.begin(kRegion, 4);
  std::uint64_t page = random() % 10;
  for (; entries > 0 && !sample.encoder.full(); --entries) {
    add_entry(sample, page, random);
    page += 1 + random() % 3;
  }
}

struct Head {
  RecordHeader record;
  BatchHeader batch;
  Bytes table;
};

/// All steps of a reader up to the content.
Result<Head> read_head(std::span<const std::byte> head) {
  Head read;
  MIGRATE_ASSIGN(read.record, decode_header(head.first<kRecordHeaderBytes>(), 0));
  const auto body = head.subspan(kRecordHeaderBytes);
  MIGRATE_TRY(check_record(read.record, body, session_hasher()));
  MIGRATE_ASSIGN(read.batch,
                 decode_batch_header(read.record, body.first<kBatchHeaderBytes>(), kAll));
  read.table.assign(body.begin() + kBatchHeaderBytes, body.end());
  return read;
}

/// What the target has after the batch, page by page.
std::map<std::uint64_t, Page> apply(const Sample& sample, BatchContent content) {
  std::map<std::uint64_t, Page> pages;
  for (PageContent page; content.next(page);) {
    for (std::uint64_t i = 0; i < page.entry.count; ++i) {
      Page& to = pages[page.entry.first + i];
      switch (page.entry.encoding) {
        case PageEncoding::kRaw:
          std::copy(page.bytes.begin(), page.bytes.end(), to.begin());
          break;
        case PageEncoding::kZeros:
          to = {};
          break;
        case PageEncoding::kDelta:
          EXPECT_TRUE(decode_delta(sample.before.at(page.entry.first), page.bytes, to));
          break;
        case PageEncoding::kDuplicate:
          EXPECT_EQ(page.original.region, RegionHandle{5});
          to = sample.before.at(page.original.page);
          break;
      }
    }
  }
  return pages;
}

TEST(PageContentTest, ABatchOfAllEncodingsComesBack) {
  std::mt19937_64 random(1);
  auto packer = ZstdPacker::create();
  auto unpacker = ZstdUnpacker::create();
  ASSERT_TRUE(packer && unpacker);
  Bytes packed(kBatchContentBytesMax);
  Bytes unpacked(kBatchContentBytesMax);
  for (int repeat = 0; repeat < 100; ++repeat) {
    Sample sample;
    make(sample, 1 + random() % 60, random);
    const std::size_t content_bytes = sample.raw.size() + sample.encoder.patches().size();
    EXPECT_EQ(sample.encoder.content_bytes(), content_bytes);

    const auto head = read_head(sample.encoder.finish(0, session_hasher()));
    ASSERT_TRUE(head) << head.error().to_text();
    EXPECT_EQ(head->batch.content_bytes, content_bytes);
    const auto table = decode_page_table(head->batch, head->table, kRegionPages, kAll);
    ASSERT_TRUE(table) << table.error().to_text();
    ASSERT_EQ(table->raw_bytes(), sample.raw.size());
    const auto content = decode_content(*table, sample.raw, sample.encoder.patches());
    ASSERT_TRUE(content) << content.error().to_text();
    EXPECT_TRUE(apply(sample, *content) == sample.after);

    const Bytes patches(sample.encoder.patches().begin(), sample.encoder.patches().end());
    const iovec parts[] = {{sample.raw.data(), sample.raw.size()},
                           {const_cast<std::byte*>(patches.data()), patches.size()}};
    const auto size = packer->pack(parts, 1, packed);
    ASSERT_TRUE(size);
    if (*size == 0) continue;
    const auto packed_head =
        read_head(sample.encoder.finish_packed(ContentCodec::kZstd, *size, 0, session_hasher()));
    ASSERT_TRUE(packed_head) << packed_head.error().to_text();
    const auto packed_table =
        decode_page_table(packed_head->batch, packed_head->table, kRegionPages, kAll);
    ASSERT_TRUE(packed_table) << packed_table.error().to_text();
    const auto whole = unpacker->unpack(*packed_table, std::span(packed).first(*size), unpacked);
    ASSERT_TRUE(whole) << whole.error().to_text();
    ASSERT_EQ(whole->size(), content_bytes);
    const auto again = decode_content(*packed_table, whole->first(packed_table->raw_bytes()),
                                      whole->subspan(packed_table->raw_bytes()));
    ASSERT_TRUE(again) << again.error().to_text();
    EXPECT_TRUE(apply(sample, *again) == sample.after);
  }
}

TEST(PageContentTest, RawPagesReceivedInPlaceHaveNoBytesHere) {
  PagesEncoder encoder;
  encoder.begin(kRegion, 0);
  encoder.add_raw(1, 10);
  encoder.add_duplicate(2, 20, {RegionHandle{9}, 77});
  const auto head = read_head(encoder.finish(0, session_hasher()));
  ASSERT_TRUE(head);
  const auto table = decode_page_table(head->batch, head->table, kRegionPages, kAll);
  ASSERT_TRUE(table);
  EXPECT_TRUE(table->has_patches());
  auto content = decode_content(*table, {}, encoder.patches());
  ASSERT_TRUE(content);
  PageContent page;
  ASSERT_TRUE(content->next(page));
  EXPECT_TRUE(page.bytes.empty());
  EXPECT_EQ(page.entry, (PageEntry{PageEncoding::kRaw, 1, 1, 10}));
  ASSERT_TRUE(content->next(page));
  EXPECT_EQ(page.entry, (PageEntry{PageEncoding::kDuplicate, 2, 1, 20}));
  EXPECT_EQ(page.original, (PageReference{RegionHandle{9}, 77}));
  EXPECT_FALSE(content->next(page));
}

TEST(PageContentTest, ATableKnowsItsPages) {
  PagesEncoder encoder;
  encoder.begin(kRegion, 0);
  encoder.add_raw(3, 0);
  encoder.add_zeros(5, 4);
  encoder.add_raw(20, 0);
  const auto head = read_head(encoder.finish(0, session_hasher()));
  ASSERT_TRUE(head);
  const auto table = decode_page_table(head->batch, head->table, kRegionPages, kAll);
  ASSERT_TRUE(table);
  for (std::uint64_t page = 0; page < 30; ++page) {
    EXPECT_EQ(table->has(page), page == 3 || (page >= 5 && page < 9) || page == 20) << page;
  }
  EXPECT_FALSE(table->has_patches());
  EXPECT_EQ(table->region(), kRegion);
}

/// Raw 2, delta 4, duplicate 6 of page 40 in region 5.
class PatchesTest : public ::testing::Test {
 protected:
  PatchesTest() {
    encoder_.begin(kRegion, 0);
    encoder_.add_raw(2, 0);
    const Bytes delta = {std::byte{0}, std::byte{1}, std::byte{7}};
    encoder_.add_delta(4, 0, delta);
    encoder_.add_duplicate(6, 0, {RegionHandle{5}, 40});
    patches_.assign(encoder_.patches().begin(), encoder_.patches().end());
    const auto head = read_head(encoder_.finish(0, session_hasher()));
    batch_ = head->batch;
    table_ = head->table;
  }

  std::string complaint() const {
    const auto table = decode_page_table(batch_, table_, kRegionPages, kAll);
    if (!table) return table.error().message;
    // A heap block that ends where the patches do.
    const auto tight = std::make_unique<std::byte[]>(patches_.size());
    std::copy(patches_.begin(), patches_.end(), tight.get());
    const auto content = decode_content(*table, {}, {tight.get(), patches_.size()});
    if (!content) {
      EXPECT_EQ(content.error().code, ErrorCode::kIntegrity);
      return content.error().message;
    }
    BatchContent walk = *content;
    for (PageContent page; walk.next(page);) {
      if (!page.bytes.empty()) {
        EXPECT_GE(page.bytes.data(), tight.get());
        EXPECT_LE(page.bytes.data() + page.bytes.size(), tight.get() + patches_.size());
      }
    }
    return {};
  }

  PagesEncoder encoder_;
  BatchHeader batch_;
  Bytes table_;
  Bytes patches_;
};

TEST_F(PatchesTest, AreTakenAsTheyAre) {
  EXPECT_EQ(complaint(), "");
  ASSERT_EQ(patches_.size(), 5u + 14u);
}

TEST_F(PatchesTest, EveryPrefixIsRefused) {
  const Bytes whole = patches_;
  for (std::size_t keep = 0; keep < whole.size(); ++keep) {
    patches_.assign(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(keep));
    EXPECT_NE(complaint(), "") << keep;
  }
  patches_ = whole;
  patches_.push_back(std::byte{0});
  EXPECT_THAT(complaint(), HasSubstr("byte 19 of its patches: bytes are left over"));
}

TEST_F(PatchesTest, LengthsThatDoNotFitAreRefused) {
  store_u16(patches_.data(), 0);
  EXPECT_THAT(complaint(), HasSubstr("byte 0 of its patches: a delta of 0 bytes"));
  store_u16(patches_.data(), 2);
  EXPECT_THAT(complaint(), HasSubstr("byte 4"));
  store_u16(patches_.data(), 0xFFFF);
  EXPECT_THAT(complaint(), HasSubstr("a patch of 65535 bytes is cut short"));
  patches_.insert(patches_.begin() + 2, kPageSize, std::byte{0});
  store_u16(patches_.data(), kDeltaBytesMax + 1);
  EXPECT_THAT(complaint(), HasSubstr("a delta of 4095 bytes"));
  patches_.erase(patches_.begin() + 2, patches_.begin() + 2 + kPageSize);
  store_u16(patches_.data(), 3);
  store_u16(patches_.data() + 5, 11);
  EXPECT_THAT(complaint(), HasSubstr("byte 5 of its patches: a duplicate of 11 bytes"));
}

TEST_F(PatchesTest, ADuplicateOfAPageInTheSameBatchIsRefused) {
  std::byte* const reference = patches_.data() + 5 + kPatchLengthBytes;
  store_u64(reference + 4, 2);
  EXPECT_EQ(complaint(), "") << "page 2 of another region is another page";
  store_u32(reference, kRegion.number);
  for (const std::uint64_t page : {2, 4, 6}) {
    store_u64(reference + 4, page);
    EXPECT_THAT(complaint(), HasSubstr("which is in the same batch")) << page;
  }
  store_u64(reference + 4, 3);
  EXPECT_EQ(complaint(), "");
  store_u64(reference + 4, kPageNumberMax);
  EXPECT_THAT(complaint(), HasSubstr("which no region has"));
}

TEST_F(PatchesTest, ContentBeyondWhatTheTableAllowsIsRefusedBeforeItIsRead) {
  const std::size_t most = kPageSize + (2 + kDeltaBytesMax) + (2 + kDuplicateBytes);
  const std::size_t least = kPageSize + 3 + (2 + kDuplicateBytes);
  for (const auto codec : {ContentCodec::kNone, ContentCodec::kZstd}) {
    const bool packed = codec != ContentCodec::kNone;
    batch_.codec = codec;
    batch_.content_bytes = static_cast<std::uint32_t>(most + (packed ? 0 : 1));
    EXPECT_THAT(complaint(), HasSubstr("1 raw pages, 1 deltas and 1 duplicates"));
    batch_.content_bytes = static_cast<std::uint32_t>(most - (packed ? 1 : 0));
    EXPECT_EQ(complaint(), "");
    batch_.content_bytes = static_cast<std::uint32_t>(least - 1);
    EXPECT_EQ(complaint().empty(), packed);
  }
}

TEST(PageContentDeathTest, WhatCannotBeSentIsAProgrammerError) {
  PagesEncoder encoder;
  encoder.begin(kRegion, 0);
  EXPECT_DEATH(encoder.add_delta(0, 0, {}), "check failed");
  const Bytes long_one(kDeltaBytesMax + 1);
  EXPECT_DEATH(encoder.add_delta(0, 0, long_one), "check failed");
  encoder.add_raw(1, 0);
  EXPECT_DEATH((void)encoder.finish_packed(ContentCodec::kZstd, kPageSize, 0, session_hasher()),
               "check failed");
}

}  // namespace
}  // namespace migrate::wire
