#include "wire/packing.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <memory>
#include <random>
#include <vector>

#include "tests/wire/page_samples.hpp"
#include "tests/wire/sample_messages.hpp"
#include "wire/codec.hpp"

namespace migrate::wire {
namespace {

using ::testing::HasSubstr;
using testing::Page;
using testing::random_page;
using testing::text_page;

using Bytes = std::vector<std::byte>;

/// The table of a batch of `raw` raw pages and `deltas` deltas; owns the bytes it refers to.
class Table {
 public:
  explicit Table(std::size_t raw, std::size_t deltas = 0) {
    PagesEncoder encoder;
    encoder.begin({}, 0);
    std::uint64_t page = 0;
    const std::byte delta[] = {std::byte{0}, std::byte{1}, std::byte{7}};
    for (std::size_t i = 0; i < raw; ++i) encoder.add_raw(page++, 0);
    for (std::size_t i = 0; i < deltas; ++i) encoder.add_delta(page++, 0, delta);
    testing::Samples samples(1);
    const SessionRandom half = samples.secret_half();
    const auto head = encoder.finish(0, Hasher(half, half)).subspan(kRecordHeaderBytes);
    bytes_.assign(head.begin() + kBatchHeaderBytes, head.end());
    BatchHeader batch;
    batch.entries = static_cast<std::uint16_t>(raw + deltas);
    batch.content_bytes = static_cast<std::uint32_t>(encoder.content_bytes());
    batch.pages = encoder.pages();
    view_.emplace(*decode_page_table(batch, bytes_, page, {kEncodingsKnown, kCodecsKnown}));
  }
  [[nodiscard]] const PageTableView& view() const { return *view_; }

 private:
  Bytes bytes_;
  std::optional<PageTableView> view_;
};

Bytes text_content(std::size_t pages, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Bytes content;
  for (std::size_t i = 0; i < pages; ++i) {
    const Page page = text_page(random);
    content.insert(content.end(), page.begin(), page.end());
  }
  return content;
}

iovec part_of(Bytes& bytes) { return {bytes.data(), bytes.size()}; }

/// As any zstd would make it, with these parameters.
Bytes frame_of(const Bytes& content, std::vector<std::pair<ZSTD_cParameter, int>> parameters,
               std::size_t pledged = ZSTD_CONTENTSIZE_UNKNOWN) {
  const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context(ZSTD_createCCtx(),
                                                                     ZSTD_freeCCtx);
  for (const auto& [parameter, value] : parameters) {
    EXPECT_FALSE(ZSTD_isError(ZSTD_CCtx_setParameter(context.get(), parameter, value)));
  }
  if (pledged != ZSTD_CONTENTSIZE_UNKNOWN) ZSTD_CCtx_setPledgedSrcSize(context.get(), pledged);
  Bytes frame(ZSTD_compressBound(content.size()));
  ZSTD_inBuffer in{content.data(), content.size(), 0};
  ZSTD_outBuffer out{frame.data(), frame.size(), 0};
  // By pieces, so that zstd cannot look ahead to the end.
  in.size = content.size() / 2;
  EXPECT_FALSE(ZSTD_isError(ZSTD_compressStream2(context.get(), &out, &in, ZSTD_e_continue)));
  in.size = content.size();
  EXPECT_EQ(ZSTD_compressStream2(context.get(), &out, &in, ZSTD_e_end), 0u);
  frame.resize(out.pos);
  return frame;
}

class PackingTest : public ::testing::Test {
 protected:
  PackingTest()
      : packer_(*ZstdPacker::create()),
        unpacker_(*ZstdUnpacker::create()),
        unpacked_(kBatchContentBytesMax) {}

  Bytes packed(std::vector<iovec> parts, int level = 1) {
    Bytes into(kBatchContentBytesMax);
    const auto size = packer_.pack(parts, level, into);
    EXPECT_TRUE(size);
    into.resize(*size);
    return into;
  }
  /// "" when it is taken.
  std::string complaint(const Table& table, const Bytes& frame) {
    // A heap block that ends where the frame does.
    const auto tight = std::make_unique<std::byte[]>(frame.size());
    std::copy(frame.begin(), frame.end(), tight.get());
    const auto content = unpacker_.unpack(table.view(), {tight.get(), frame.size()}, unpacked_);
    if (content) return {};
    EXPECT_EQ(content.error().code, ErrorCode::kIntegrity);
    return content.error().message;
  }

  ZstdPacker packer_;
  ZstdUnpacker unpacker_;
  Bytes unpacked_;
};

TEST_F(PackingTest, TextComesBackAtEveryLevelAndIsLessThanHalf) {
  for (const int level : {kZstdLevelMin, -1, 1, 3, 9, kZstdLevelMax, 1}) {
    // Level 19 takes a second for a whole batch.
    for (const std::size_t pages : {1, 2, 64, level == kZstdLevelMax ? 128 : 512}) {
      Bytes content = text_content(pages, 10 + pages);
      const Bytes frame = packed({part_of(content)}, level);
      ASSERT_FALSE(frame.empty()) << level;
      if (level >= 1 && pages > 1) {
        EXPECT_LT(frame.size(), content.size() / 2) << level;
      }
      const Table table(pages);
      const auto size = unpacked_bytes(table.view(), frame);
      ASSERT_TRUE(size) << size.error().to_text();
      ASSERT_EQ(*size, content.size());
      // Exactly as much room as is needed.
      Bytes into(*size);
      const auto back = unpacker_.unpack(table.view(), frame, into);
      ASSERT_TRUE(back) << back.error().to_text();
      ASSERT_EQ(into, content);
    }
  }
}

TEST_F(PackingTest, PiecesArePackedAsTheyWouldBeInARow) {
  Bytes content = text_content(8, 3);
  Bytes other = text_content(2, 4);
  std::vector<iovec> in_a_row;
  std::vector<iovec> apart;
  for (std::size_t at = 0; at < content.size(); at += kPageSize) {
    in_a_row.push_back({content.data() + at, kPageSize});
  }
  EXPECT_EQ(packed(in_a_row), packed({part_of(content)}));
  apart = in_a_row;
  apart.push_back(part_of(other));
  Bytes both = content;
  both.insert(both.end(), other.begin(), other.end());
  EXPECT_EQ(packed(apart), packed({part_of(both)}));
}

TEST_F(PackingTest, WhatDoesNotBecomeSmallerIsNotPacked) {
  std::mt19937_64 random(5);
  const Page page = random_page(random);
  Bytes content(page.begin(), page.end());
  EXPECT_TRUE(packed({part_of(content)}).empty());
  EXPECT_TRUE(packed({}).empty());
  Bytes none;
  EXPECT_TRUE(packed({part_of(none)}).empty());
  // Nor what has no room; the next batch is packed all the same.
  Bytes text = text_content(4, 6);
  const iovec part = part_of(text);
  Bytes small(100);
  EXPECT_EQ(*packer_.pack({&part, 1}, 1, small), 0u);
  EXPECT_FALSE(packed({part}).empty());
}

TEST_F(PackingTest, FramesThatTheSpecificationForbidsAreRefused) {
  const Bytes content = text_content(4, 7);
  const Table table(4);
  const Bytes good = frame_of(content, {}, content.size());
  EXPECT_EQ(complaint(table, good), "");
  EXPECT_EQ(complaint(table, frame_of(content, {{ZSTD_c_compressionLevel, 19}}, content.size())),
            "");

  EXPECT_THAT(complaint(table, frame_of(content, {})), HasSubstr("how long its content is"));
  EXPECT_THAT(complaint(table, frame_of(content, {{ZSTD_c_checksumFlag, 1}}, content.size())),
              HasSubstr("checksum"));
  EXPECT_THAT(complaint(table, {}), HasSubstr("no zstd frame"));
  EXPECT_THAT(complaint(Table(3), good), HasSubstr("16384 bytes of content are announced"));
  EXPECT_THAT(complaint(Table(5), good), HasSubstr("16384 bytes of content are announced"));
  EXPECT_EQ(complaint(Table(3, 1), good), "") << "a delta may be as long as a page";
  EXPECT_THAT(complaint(Table(2, 1), good), HasSubstr("the table has 8195 to 12288"));

  Bytes two = good;
  two.insert(two.end(), good.begin(), good.end());
  EXPECT_THAT(complaint(table, two), HasSubstr("does not end where its frame does"));
  Bytes skippable = good;
  for (const int byte : {0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0}) {
    skippable.push_back(static_cast<std::byte>(byte));
  }
  EXPECT_THAT(complaint(table, skippable), HasSubstr("does not end where its frame does"));
  std::rotate(skippable.begin(), skippable.end() - 8, skippable.end());
  EXPECT_THAT(complaint(table, skippable), HasSubstr("no zstd frame"));

  Bytes reserved = good;
  reserved[4] |= std::byte{0b1000};
  EXPECT_THAT(complaint(table, reserved), HasSubstr("reserved bit"));
  Bytes dictionary = good;
  dictionary[4] |= std::byte{0b0001};
  EXPECT_THAT(complaint(table, dictionary), HasSubstr("dictionary"));
}

TEST_F(PackingTest, AWindowLargerThanABatchIsRefused) {
  // By hand: window descriptor, content size of 4 bytes, one RLE block that is the last.
  const auto frame = [](int window) {
    Bytes bytes;
    for (const int byte : {0x28, 0xB5, 0x2F, 0xFD, 0x80, window, 0, 0x10, 0, 0, 3, 0x80, 0, 9}) {
      bytes.push_back(static_cast<std::byte>(byte));
    }
    return bytes;
  };
  EXPECT_EQ(complaint(Table(1), frame(11 << 3)), "");  // 2 MiB.
  EXPECT_EQ(unpacked_[4095], std::byte{9});
  EXPECT_THAT(complaint(Table(1), frame(11 << 3 | 1)), HasSubstr("window"));
  EXPECT_THAT(complaint(Table(1), frame(0xFF)), HasSubstr("window"));
}

TEST_F(PackingTest, AFrameThatIsNotSmallerIsRefused) {
  std::mt19937_64 random(8);
  const Page page = random_page(random);
  const Bytes content(page.begin(), page.end());
  EXPECT_THAT(complaint(Table(1), frame_of(content, {}, content.size())),
              HasSubstr("4096 bytes are packed to 41"));
}

TEST_F(PackingTest, EveryPrefixIsRefusedAndNoFlippedBitReachesBeyondTheRoom) {
  const Bytes content = text_content(2, 9);
  const Table table(2);
  const Bytes good = frame_of(content, {}, content.size());
  for (std::size_t keep = 0; keep < good.size(); ++keep) {
    const Bytes prefix(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(keep));
    ASSERT_NE(complaint(table, prefix), "") << keep;
  }
  // Guard bytes behind exactly the room that is needed.
  Bytes guarded(content.size() + 64, std::byte{0x5A});
  int taken = 0;
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    Bytes flipped = good;
    flipped[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    // A frame that says more than there is room for is refused by unpacked_bytes(), as a caller
    // with a tight buffer does it.
    const auto size = unpacked_bytes(table.view(), flipped);
    if (!size) continue;
    ASSERT_EQ(*size, content.size());
    const auto back = unpacker_.unpack(table.view(), flipped, std::span(guarded).first(*size));
    taken += back ? 1 : 0;  // Bits of literals: the page's hash will notice.
    for (std::size_t i = content.size(); i < guarded.size(); ++i) {
      ASSERT_EQ(guarded[i], std::byte{0x5A}) << "bit " << bit;
    }
  }
  EXPECT_GT(taken, 0);
  EXPECT_EQ(complaint(table, good), "") << "a failure must not stay with the context";
}

TEST_F(PackingTest, AnyBytesBehindAValidHeaderAreBounded) {
  std::mt19937_64 random(10);
  const Bytes content = text_content(2, 11);
  const Table table(2);
  const Bytes good = frame_of(content, {}, content.size());
  Bytes guarded(content.size() + 64, std::byte{0x5A});
  for (int repeat = 0; repeat < 5000; ++repeat) {
    Bytes frame = good;
    for (std::uint64_t changes = 1 + random() % 30; changes > 0; --changes) {
      frame[8 + random() % (frame.size() - 8)] = static_cast<std::byte>(random());
    }
    frame.resize(8 + random() % (frame.size() - 8 + 1));
    const auto size = unpacked_bytes(table.view(), frame);
    if (!size) continue;
    (void)unpacker_.unpack(table.view(), frame, std::span(guarded).first(*size));
    for (std::size_t i = *size; i < guarded.size(); ++i) ASSERT_EQ(guarded[i], std::byte{0x5A});
  }
}

}  // namespace
}  // namespace migrate::wire
