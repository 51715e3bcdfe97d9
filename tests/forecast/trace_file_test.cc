// Dirty traces as bytes: nothing is lost, and no damage goes unseen.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "forecast/trace_pages.hpp"
#include "sample_traces.hpp"
#include "wire/codec.hpp"
#include "wire/hasher.hpp"

namespace migrate {
namespace {

using Bytes = std::vector<std::byte>;

Bytes encoded(const DirtyTrace& trace) {
  auto bytes = encode_trace(trace);
  EXPECT_TRUE(bytes) << bytes.error().to_text();
  return *std::move(bytes);
}

/// Makes record `number`'s checksum right again after its body was changed.
void sign_again(Bytes& bytes, int number) {
  std::size_t at = 16;
  for (; number > 0; --number) at += 24 + wire::load_u32(bytes.data() + at + 4);
  const std::uint32_t length = wire::load_u32(bytes.data() + at + 4);
  const wire::Hasher hasher;
  std::array<std::byte, 24> covered;
  std::memcpy(covered.data(), bytes.data() + at, 16);
  wire::store_u64(covered.data() + 16, hasher.hash({bytes.data() + at + 24, length}));
  wire::store_u64(bytes.data() + at + 16, hasher.hash(covered));
}

TEST(TraceFile, GivesBackWhatWasWritten) {
  const DirtyTrace trace = testing::full_trace();
  const auto decoded = decode_trace(encoded(trace));
  ASSERT_TRUE(decoded) << decoded.error().to_text();
  EXPECT_EQ(*decoded, trace);
  EXPECT_EQ(decoded->pages(), 260u);
  EXPECT_EQ(decoded->length(), std::chrono::microseconds(60'000));
}

TEST(TraceFile, GivesBackATraceWithoutAnything) {
  DirtyTrace trace;
  trace.page_wire_bytes = kPageSize;
  const auto decoded = decode_trace(encoded(trace));
  ASSERT_TRUE(decoded) << decoded.error().to_text();
  EXPECT_EQ(*decoded, trace);
}

TEST(TraceFile, IsWhatItWasInVersion1) {
  std::ifstream file(MIGRATE_TRACE_GOLDEN_DIR "/full.trace", std::ios::binary);
  ASSERT_TRUE(file);
  const std::string golden((std::istreambuf_iterator<char>(file)), {});
  const Bytes bytes = encoded(testing::full_trace());
  EXPECT_EQ(golden, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

TEST(TraceFile, AnyFlippedBitIsFound) {
  const Bytes good = encoded(testing::full_trace());
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      Bytes bytes = good;
      bytes[at] ^= static_cast<std::byte>(1u << bit);
      const auto decoded = decode_trace(bytes);
      ASSERT_FALSE(decoded) << "byte " << at << " bit " << bit;
      EXPECT_NE(decoded.error().message.find("byte "), std::string::npos)
          << decoded.error().message;
    }
  }
}

TEST(TraceFile, AnyCutIsFound) {
  const Bytes good = encoded(testing::full_trace());
  for (std::size_t keep = 0; keep < good.size(); ++keep) {
    const auto decoded = decode_trace({good.data(), keep});
    ASSERT_FALSE(decoded) << keep;
    const auto wanted = keep < 8 ? ErrorCode::kInvalidArgument : ErrorCode::kIntegrity;
    EXPECT_EQ(decoded.error().code, wanted) << keep;
    EXPECT_FALSE(decoded.error().remedy.empty());
  }
  Bytes longer = good;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(decode_trace(longer));
}

TEST(TraceFile, RecordsCannotBeLeftOutOrSwapped) {
  const Bytes good = encoded(testing::full_trace());
  std::vector<std::size_t> begins = {16};
  while (begins.back() < good.size()) {
    begins.push_back(begins.back() + 24 + wire::load_u32(good.data() + begins.back() + 4));
  }
  ASSERT_EQ(begins.size(), 7u);  // GUEST, EMPTY, three SAMPLEs, END.
  for (std::size_t record = 0; record + 1 < begins.size(); ++record) {
    Bytes without = good;
    without.erase(without.begin() + begins[record], without.begin() + begins[record + 1]);
    EXPECT_FALSE(decode_trace(without)) << record;
  }
}

struct Lie {
  const char* what;
  int record;
  std::size_t at;  // In its body.
  std::uint32_t value;
};

TEST(TraceFile, LengthsAreNotBelieved) {
  const Bytes good = encoded(testing::full_trace());
  const Lie lies[] = {
      {"the guest's name", 0, 0, 0xffffffff},
      {"the number of vCPUs of a sample", 2, 4, 0xffffffff},
      {"the length of a set", 1, 1, 0xffffffff},
      {"the time of a sample", 2, 0, 0},
      {"the number of samples", 5, 0, 7},
  };
  for (const Lie& lie : lies) {
    Bytes bytes = good;
    std::size_t at = 16;
    for (int i = 0; i < lie.record; ++i) at += 24 + wire::load_u32(bytes.data() + at + 4);
    wire::store_u32(bytes.data() + at + 24 + lie.at, lie.value);
    sign_again(bytes, lie.record);
    const auto decoded = decode_trace(bytes);
    ASSERT_FALSE(decoded) << lie.what;
    EXPECT_EQ(decoded.error().code, ErrorCode::kIntegrity) << decoded.error().to_text();
  }
}

TEST(TraceFile, AnotherVersionIsSaidToBeOne) {
  Bytes bytes = encoded(testing::full_trace());
  wire::store_u32(bytes.data() + 8, 2);
  const auto decoded = decode_trace(bytes);
  ASSERT_FALSE(decoded);
  EXPECT_EQ(decoded.error().code, ErrorCode::kVersionMismatch);
}

TEST(TraceFile, RefusesToWriteWhatContradictsItself) {
  const TracePages wrong[] = {
      {{0, 0}},           // Empty.
      {{5, 5}, {3, 1}},   // Not in order.
      {{5, 5}, {10, 1}},  // Touching.
      {{250, 11}},        // Beyond the last page.
      {{0xffffffff, 2}},  // Beyond what a number holds.
  };
  for (const TracePages& pages : wrong) {
    DirtyTrace trace = testing::full_trace();
    trace.samples[0].dirtied = pages;
    EXPECT_FALSE(encode_trace(trace));
  }
  DirtyTrace twice = testing::full_trace();
  twice.regions[1].id = twice.regions[0].id;
  EXPECT_FALSE(encode_trace(twice));
  DirtyTrace huge = testing::full_trace();
  huge.regions[1].range.count = std::uint64_t{1} << 30;
  EXPECT_FALSE(encode_trace(huge));
}

TEST(TracePages, BothFormsSayTheSame) {
  std::mt19937 random(7);
  for (const unsigned density : {0u, 1u, 30u, 500u, 990u, 1000u}) {
    for (const std::uint32_t total : {1u, 63u, 64u, 65u, 1000u}) {
      PageBitmap set(std::vector<Region>{{{0, 1, 0}, {{77}, total}, Backing::kUnknown}});
      for (std::uint32_t page = 0; page < total; ++page) {
        if (random() % 1000 < density) set.set({0, 1, 0}, {{77 + page}, 1});
      }
      const TracePages pages = forecast::number_pages(set);
      EXPECT_TRUE(forecast::is_in_order(pages, total));
      EXPECT_EQ(forecast::count(pages), set.count());
      const auto packed = forecast::pack(pages, total);
      const auto back = forecast::unpack(packed.form, packed.bytes, total, 1000, 0);
      ASSERT_TRUE(back) << back.error().to_text();
      EXPECT_EQ(*back, pages);
      const auto& words = set.segments()[0].words;
      const auto as_words = forecast::unpack(forecast::PageSetForm::kWords,
                                             std::as_bytes(std::span(words)), total, 1000, 0);
      ASSERT_TRUE(as_words) << as_words.error().to_text();
      EXPECT_EQ(*as_words, pages);
      EXPECT_LE(packed.bytes.size(), words.size() * 8);
    }
  }
}

TEST(TracePages, NoMoreRunsThanAllowed) {
  TracePages pages;
  for (std::uint32_t page = 0; page < 100; page += 2) pages.push_back({page, 1});
  for (const auto total : {100u, 100'000u}) {
    const auto packed = forecast::pack(pages, total);
    EXPECT_TRUE(forecast::unpack(packed.form, packed.bytes, total, 50, 0));
    EXPECT_FALSE(forecast::unpack(packed.form, packed.bytes, total, 49, 0));
  }
}

TEST(TracePages, ARunMayGoOnInTheNextRegion) {
  PageBitmap set(std::vector<Region>{{{0, 1, 0}, {{0}, 10}, Backing::kUnknown},
                                     {{0, 2, 0}, {{500}, 10}, Backing::kUnknown}});
  set.set({0, 1, 0}, {{8}, 2});
  set.set({0, 2, 0}, {{500}, 3});
  EXPECT_EQ(forecast::number_pages(set), (TracePages{{8, 5}}));
}

}  // namespace
}  // namespace migrate
