#include "wire/pages.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <random>
#include <vector>

#include "tests/wire/sample_messages.hpp"
#include "wire/codec.hpp"
#include "wire/digest.hpp"

namespace migrate::wire {
namespace {

using ::testing::HasSubstr;

Hasher session_hasher() {
  testing::Samples samples(99);
  const SessionRandom source = samples.secret_half();
  return Hasher(source, samples.secret_half());
}

/// What a batch says, page by page: nullopt for zero. The oracle: nothing of the encoding in it.
using Pages = std::map<std::uint64_t, std::optional<std::uint64_t>>;

Pages expand(const std::vector<PageEntry>& entries) {
  Pages pages;
  for (const PageEntry& entry : entries) {
    for (std::uint64_t i = 0; i < entry.count; ++i) {
      pages[entry.first + i] =
          entry.encoding == PageEncoding::kRaw ? std::optional(entry.hash) : std::nullopt;
    }
  }
  return pages;
}

struct Decoded {
  RecordHeader record;
  BatchHeader batch;
  std::vector<PageEntry> entries;
};

/// All steps of a reader.
Result<Decoded> read(std::span<const std::byte> head, std::uint64_t region_pages) {
  Decoded decoded;
  MIGRATE_ASSIGN(decoded.record, decode_header(head.first<kRecordHeaderBytes>(), 3));
  const auto body = head.subspan(kRecordHeaderBytes);
  MIGRATE_ASSIGN(decoded.batch,
                 decode_batch_header(decoded.record, body.first<kBatchHeaderBytes>()));
  MIGRATE_CHECK(decoded.batch.head_bytes() <= body.size());
  MIGRATE_TRY(check_record(decoded.record, body, session_hasher()));
  MIGRATE_ASSIGN(const PageTableView table,
                 decode_page_table(decoded.batch, body.subspan(kBatchHeaderBytes), region_pages));
  for (std::size_t i = 0; i < table.size(); ++i) decoded.entries.push_back(table[i]);
  return decoded;
}

TEST(PagesEncoderTest, BatchComesBackAsItWas) {
  std::mt19937_64 random(1);
  PagesEncoder encoder;
  for (int repeat = 0; repeat < 300; ++repeat) {
    encoder.begin(RegionHandle{static_cast<std::uint32_t>(repeat)}, 9);
    Pages expected;
    std::uint64_t raw = 0;
    std::uint64_t page = random() % 100;
    for (std::uint64_t adds = 1 + random() % 700; adds > 0 && !encoder.full(); --adds) {
      if (random() % 3 == 0) {
        const std::uint64_t run = 1 + random() % 20;
        encoder.add_zeros(page, run);
        for (std::uint64_t i = 0; i < run; ++i) expected[page + i] = std::nullopt;
        page += run;
      } else {
        const std::uint64_t hash = random();
        encoder.add_raw(page, hash);
        expected[page++] = hash;
        ++raw;
      }
      if (random() % 2 == 0) page += random() % 5;
    }
    EXPECT_EQ(encoder.pages(), expected.size());
    EXPECT_EQ(encoder.content_bytes(), raw * kPageSize);
    const auto decoded = read(encoder.finish(3, session_hasher()), page);
    ASSERT_TRUE(decoded) << decoded.error().to_text();
    EXPECT_EQ(decoded->batch.region.number, static_cast<std::uint32_t>(repeat));
    EXPECT_EQ(decoded->batch.round, 9u);
    EXPECT_EQ(decoded->batch.pages, expected.size());
    EXPECT_EQ(decoded->batch.content_bytes, raw * kPageSize);
    EXPECT_EQ(expand(decoded->entries), expected);
  }
}

TEST(PagesEncoderTest, AGibibyteOfZerosIsOneEntry) {
  PagesEncoder encoder;
  encoder.begin({}, 0);
  for (std::uint64_t page = 0; page < 262144; page += 64) encoder.add_zeros(page, 64);
  const auto head = encoder.finish(3, session_hasher());
  EXPECT_EQ(head.size(), kRecordHeaderBytes + kBatchHeaderBytes + kPageEntryBytes);
  const auto decoded = read(head, 262144);
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->entries, (std::vector<PageEntry>{{PageEncoding::kZeros, 0, 262144, 0}}));
}

TEST(PagesEncoderTest, IsFullAt512EntriesAndFitsItsLimit) {
  PagesEncoder encoder;
  encoder.begin({}, 0);
  for (std::uint64_t page = 0; !encoder.full(); ++page) encoder.add_raw(page, page);
  EXPECT_EQ(encoder.pages(), kBatchEntriesMax);
  const auto decoded = read(encoder.finish(3, session_hasher()), 512);
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->record.length, length_max(RecordType::kPages));
}

TEST(PagesEncoderDeathTest, PagesOutOfOrderAreAProgrammerError) {
  PagesEncoder encoder;
  encoder.begin({}, 0);
  encoder.add_raw(5, 1);
  EXPECT_DEATH(encoder.add_raw(5, 1), "check failed");
  EXPECT_DEATH(encoder.add_zeros(4, 2), "check failed");
}

/// A batch of raw pages 2 and 3, zeros 4..7, raw 9, whose body tests change.
class BatchTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kRegionPages = 10;

  BatchTest() {
    PagesEncoder encoder;
    encoder.begin(RegionHandle{1}, 2);
    encoder.add_raw(2, 22);
    encoder.add_raw(3, 33);
    encoder.add_zeros(4, 4);
    encoder.add_raw(9, 99);
    const auto head = encoder.finish(3, session_hasher());
    record_ = *decode_header(head.first<kRecordHeaderBytes>(), 3);
    body_.assign(head.begin() + kRecordHeaderBytes, head.end());
  }

  std::byte* entry(std::size_t index) {
    return body_.data() + kBatchHeaderBytes + index * kPageEntryBytes;
  }
  /// The body as a reader that got past the checksum sees it.
  std::string complaint(std::uint64_t region_pages = kRegionPages) {
    const auto batch = decode_batch_header(record_, std::span(body_).first<kBatchHeaderBytes>());
    if (!batch) return batch.error().message;
    if (batch->head_bytes() != body_.size()) return "other table";
    const auto table =
        decode_page_table(*batch, std::span(body_).subspan(kBatchHeaderBytes), region_pages);
    return table ? std::string() : table.error().message;
  }

  RecordHeader record_;
  std::vector<std::byte> body_;
};

TEST_F(BatchTest, IsTakenWhole) { EXPECT_EQ(complaint(), ""); }

TEST_F(BatchTest, PageOutsideTheRegionIsRefused) {
  EXPECT_THAT(complaint(9), HasSubstr("byte 96: 1 pages from 9 are not all in a region of 9"));
  EXPECT_THAT(complaint(6), HasSubstr("byte 80: 4 pages from 4"));
  EXPECT_THAT(complaint(0), HasSubstr("not all in a region of 0"));
}

TEST_F(BatchTest, PageTwiceIsRefused) {
  store_u64(entry(1), std::uint64_t{1} << 56 | 2);
  EXPECT_THAT(complaint(), HasSubstr("byte 64: page 2 comes twice"));
}

TEST_F(BatchTest, RunOverAFollowingPageIsRefused) {
  store_u64(entry(2) + 8, 6);
  EXPECT_THAT(complaint(), HasSubstr("page 9 comes twice"));
  store_u64(entry(2) + 8, ~std::uint64_t{0});
  EXPECT_THAT(complaint(), HasSubstr("are not all in a region"));
  store_u64(entry(2) + 8, 0);
  EXPECT_THAT(complaint(), HasSubstr("a run of no pages"));
}

TEST_F(BatchTest, EncodingAndCodecThatWereNotAgreedAreRefused) {
  entry(0)[7] = std::byte{3};
  EXPECT_THAT(complaint(), HasSubstr("page encoding 3 was not agreed"));
  entry(0)[7] = std::byte{1};
  body_[10] = std::byte{1};
  EXPECT_THAT(complaint(), HasSubstr("content codec 1 was not agreed"));
  body_[10] = std::byte{0};
  body_[11] = std::byte{1};
  EXPECT_THAT(complaint(), HasSubstr("reserved"));
}

TEST_F(BatchTest, CountsThatDoNotAgreeAreRefused) {
  store_u64(body_.data() + 16, 8);
  EXPECT_THAT(complaint(), HasSubstr("8 pages are announced, the table has 7"));
  store_u64(body_.data() + 16, 7);
  store_u16(body_.data() + 8, 5);
  EXPECT_THAT(complaint(), HasSubstr("do not make the record's length"));
  store_u16(body_.data() + 8, 513);
  EXPECT_THAT(complaint(), HasSubstr("513 entries"));
  store_u16(body_.data() + 8, 0);
  EXPECT_THAT(complaint(), HasSubstr("0 entries"));
  store_u16(body_.data() + 8, 4);
  entry(0)[7] = std::byte{2};  // A zero run of 22 pages in place of a raw page.
  EXPECT_THAT(complaint(100), HasSubstr("comes twice"));
}

TEST_F(BatchTest, AnyMutationIsRefusedOrIsAValidBatch) {
  std::mt19937_64 random(2);
  const std::vector<std::byte> original = body_;
  int taken = 0;
  for (int i = 0; i < 20000; ++i) {
    body_ = original;
    for (std::uint64_t changes = 1 + random() % 3; changes > 0; --changes) {
      body_[random() % body_.size()] = static_cast<std::byte>(random() % 12);
    }
    if (!complaint().empty()) continue;
    ++taken;
    const auto batch = decode_batch_header(record_, std::span(body_).first<kBatchHeaderBytes>());
    const auto table =
        decode_page_table(*batch, std::span(body_).subspan(kBatchHeaderBytes), kRegionPages);
    std::vector<PageEntry> entries;
    std::uint64_t raw = 0;
    for (std::size_t at = 0; at < table->size(); ++at) {
      entries.push_back((*table)[at]);
      if (entries.back().encoding == PageEncoding::kRaw) ++raw;
    }
    const Pages pages = expand(entries);
    ASSERT_EQ(pages.size(), batch->pages) << "a page is twice in it";
    ASSERT_LT(pages.rbegin()->first, kRegionPages);
    ASSERT_EQ(raw * kPageSize, batch->content_bytes);
  }
  EXPECT_GT(taken, 0);
}

TEST_F(BatchTest, EveryFlippedBitOfTheHeadIsDetected) {
  PagesEncoder encoder;
  encoder.begin(RegionHandle{1}, 2);
  encoder.add_raw(2, 22);
  encoder.add_zeros(4, 4);
  const auto head = encoder.finish(3, session_hasher());
  for (std::size_t bit = 0; bit < head.size() * 8; ++bit) {
    std::vector<std::byte> flipped(head.begin(), head.end());
    flipped[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    const auto record = decode_header(std::span(flipped).first<kRecordHeaderBytes>(), 3);
    if (!record) continue;
    EXPECT_FALSE(
        check_record(*record, std::span(flipped).subspan(kRecordHeaderBytes), session_hasher()))
        << "bit " << bit;
  }
}

TEST(PageDigestTest, SumFollowsEveryChangeAndIsZeroForFreshMemory) {
  const PageDigest digest(session_hasher());
  std::mt19937_64 random(3);
  std::map<std::pair<std::uint32_t, std::uint64_t>, std::uint64_t> hashes;
  std::uint64_t sum = 0;
  for (int i = 0; i < 2000; ++i) {
    const RegionHandle region{static_cast<std::uint32_t>(random() % 3)};
    const std::uint64_t page = random() % 20;
    const std::uint64_t after = random() % 4 == 0 ? digest.zero_hash() : random();
    auto [at, fresh] = hashes.try_emplace({region.number, page}, digest.zero_hash());
    sum += digest.change(region, page, at->second, after);
    at->second = after;
  }
  std::uint64_t anew = 0;
  for (const auto& [where, hash] : hashes) {
    anew += digest.mix(RegionHandle{where.first}, where.second, hash);
  }
  EXPECT_EQ(sum, anew);
  for (const auto& [where, hash] : hashes) {
    sum += digest.change(RegionHandle{where.first}, where.second, hash, digest.zero_hash());
  }
  EXPECT_EQ(sum, 0u);
}

TEST(PageDigestTest, NoticesSwappedAndMisplacedPages) {
  const PageDigest digest(session_hasher());
  const RegionHandle a{0};
  const RegionHandle b{1};
  EXPECT_NE(digest.mix(a, 1, 10) + digest.mix(a, 2, 20),
            digest.mix(a, 1, 20) + digest.mix(a, 2, 10));
  EXPECT_NE(digest.mix(a, 1, 10) + digest.mix(b, 1, 20),
            digest.mix(a, 1, 20) + digest.mix(b, 1, 10));
  EXPECT_NE(digest.mix(a, 1, 10), digest.mix(a, 2, 10));
  const std::vector<std::byte> zeros(kPageSize);
  EXPECT_EQ(digest.hash(zeros), digest.zero_hash());
  std::vector<std::byte> nearly(kPageSize);
  nearly.back() = std::byte{1};
  EXPECT_NE(digest.hash(nearly), digest.zero_hash());
}

}  // namespace
}  // namespace migrate::wire
