#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <vector>

#include "tests/wire/capture.hpp"
#include "tests/wire/golden_streams.hpp"
#include "tests/wire/page_samples.hpp"
#include "wire/delta.hpp"
#include "wire/digest.hpp"
#include "wire/messages.hpp"
#include "wire/packing.hpp"
#include "wire/page_content.hpp"

namespace migrate::wire::testing {
namespace {

using ::testing::HasSubstr;

const std::filesystem::path kGolden = MIGRATE_GOLDEN_DIR;

std::vector<std::byte> file_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<std::byte> bytes;
  std::transform(std::istreambuf_iterator<char>(file), {}, std::back_inserter(bytes),
                 [](char c) { return static_cast<std::byte>(c); });
  return bytes;
}

/// Decodes every record of a capture as a reader of the wire layer would: no rules across records
/// but the sequence, no state but the secret and the first regions.
class Decoder {
 public:
  Status feed(const CaptureFrame& frame) {
    Stream& stream = streams_[{frame.connection, frame.direction}];
    stream.bytes.insert(stream.bytes.end(), frame.bytes.begin(), frame.bytes.end());
    while (stream.bytes.size() >= kRecordHeaderBytes) {
      MIGRATE_ASSIGN(
          const auto header,
          decode_header(std::span(stream.bytes).first<kRecordHeaderBytes>(), stream.sequence));
      const std::size_t size = kRecordHeaderBytes + header.length;
      if (stream.bytes.size() < size) break;
      const auto body = std::span(stream.bytes).subspan(kRecordHeaderBytes, header.length);
      MIGRATE_TRY(on_record(header, body));
      stream.bytes.erase(stream.bytes.begin(),
                         stream.bytes.begin() + static_cast<std::ptrdiff_t>(size));
      ++stream.sequence;
    }
    return {};
  }

  [[nodiscard]] bool whole() const {
    return std::all_of(streams_.begin(), streams_.end(),
                       [](const auto& item) { return item.second.bytes.empty(); });
  }

 private:
  struct Stream {
    std::vector<std::byte> bytes;
    std::uint64_t sequence = 0;
  };

  Status on_record(const RecordHeader& header, std::span<const std::byte> body) {
    if (header.type == RecordType::kPages) return on_pages(header, body);
    MIGRATE_TRY(check_record(header, body, hasher_));
    switch (header.type) {
      case RecordType::kHello: {
        MIGRATE_ASSIGN(const auto hello, decode<Hello>(body));
        source_half_ = hello.random;
        for (const Region& region : hello.guest.regions)
          region_pages_.push_back(region.range.count);
        return {};
      }
      case RecordType::kWelcome: {
        MIGRATE_ASSIGN(const auto welcome, decode<Welcome>(body));
        hasher_ = Hasher(source_half_, welcome.random);
        agreed_ = {welcome.encodings, welcome.codecs};
        return {};
      }
      case RecordType::kRegions: {
        MIGRATE_ASSIGN(const auto regions, decode<Regions>(body));
        for (const Region& region : regions.added) region_pages_.push_back(region.range.count);
        return {};
      }
      default:
        return decode_any(header.type, body);
    }
  }

  static Status decode_any(RecordType type, std::span<const std::byte> body) {
#define DECODE(Message)                   \
  if (type == Message::kType) {           \
    auto message = decode<Message>(body); \
    if (!message) return message.error(); \
  }
    MIGRATE_WIRE_MESSAGES(DECODE)
#undef DECODE
    return {};
  }

  Status on_pages(const RecordHeader& header, std::span<const std::byte> body) {
    MIGRATE_ASSIGN(const auto batch,
                   decode_batch_header(header, body.first<kBatchHeaderBytes>(), agreed_));
    MIGRATE_TRY(check_record(header, body.first(batch.head_bytes()), hasher_));
    if (batch.region.number >= region_pages_.size()) {
      return make_error(ErrorCode::kProtocol, "unknown region");
    }
    MIGRATE_ASSIGN(const auto table,
                   decode_page_table(batch, body.subspan(kBatchHeaderBytes, batch.table_bytes()),
                                     region_pages_[batch.region.number], agreed_));
    std::span<const std::byte> content = body.subspan(batch.head_bytes());
    std::vector<std::byte> unpacked(kBatchContentBytesMax);
    if (batch.codec == ContentCodec::kZstd) {
      MIGRATE_ASSIGN(ZstdUnpacker unpacker, ZstdUnpacker::create());
      MIGRATE_ASSIGN(content, unpacker.unpack(table, content, unpacked));
    }
    MIGRATE_ASSIGN(auto entries, decode_content(table, content.first(table.raw_bytes()),
                                                content.subspan(table.raw_bytes())));
    for (PageContent entry; entries.next(entry);) MIGRATE_TRY(take(batch.region, entry));
    return {};
  }

  Status take(RegionHandle region, const PageContent& entry) {
    if (entry.entry.encoding == PageEncoding::kZeros) {
      for (std::uint64_t i = 0; i < entry.entry.count; ++i) {
        pages_.erase({region.number, entry.entry.first + i});
      }
      return {};
    }
    auto& page = pages_[{region.number, entry.entry.first}];
    if (entry.entry.encoding == PageEncoding::kRaw) {
      std::copy(entry.bytes.begin(), entry.bytes.end(), page.begin());
    } else if (entry.entry.encoding == PageEncoding::kDelta) {
      MIGRATE_TRY(decode_delta(page, entry.bytes, page));
    } else {
      const auto original = pages_.find({entry.original.region.number, entry.original.page});
      // Whether it may be named at all is a rule across records.
      if (original != pages_.end()) page = original->second;
    }
    if (PageDigest(hasher_).hash(page) != entry.entry.hash) {
      return make_error(ErrorCode::kIntegrity, "page " + std::to_string(entry.entry.first));
    }
    return {};
  }

  std::map<std::pair<std::uint16_t, Direction>, Stream> streams_;
  SessionRandom source_half_;
  Hasher hasher_;
  AgreedContent agreed_;
  std::vector<std::uint64_t> region_pages_;
  std::map<std::pair<std::uint32_t, std::uint64_t>, testing::Page> pages_;
};

Status decode_all(std::span<const std::byte> capture) {
  MIGRATE_ASSIGN(const auto frames, parse_capture(capture));
  Decoder decoder;
  for (const CaptureFrame& frame : frames) MIGRATE_TRY(decoder.feed(frame));
  if (!decoder.whole()) return make_error(ErrorCode::kLinkLost, "a record is cut");
  return {};
}

TEST(GoldenStreams, AreMadeAnewByteForByte) {
  std::set<std::string> names;
  for (const GoldenFile& golden : make_golden_files()) {
    EXPECT_EQ(file_bytes(kGolden / golden.name), golden.bytes)
        << golden.name << " differs: the format changed; see make_golden.cc";
    names.insert(golden.name);
  }
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kGolden)) {
    if (!entry.is_regular_file()) continue;
    EXPECT_TRUE(names.contains(std::filesystem::relative(entry.path(), kGolden).string()))
        << entry.path() << " is made by nobody";
  }
}

TEST(GoldenStreams, ValidOnesAreDecodedWhole) {
  for (const auto& entry : std::filesystem::directory_iterator(kGolden / "valid")) {
    const Status decoded = decode_all(file_bytes(entry.path()));
    EXPECT_TRUE(decoded) << entry.path() << ": " << decoded.error().to_text();
  }
}

TEST(GoldenStreams, InvalidOnesAreRefusedWhereItIsTheDecodersTask) {
  // By what a file's name begins with; the other rules span records and are the engine's.
  const std::map<std::string, std::pair<ErrorCode, std::string>> refusals = {
      {"checksum", {ErrorCode::kIntegrity, "BARRIER record 2 was damaged"}},
      {"page-hash", {ErrorCode::kIntegrity, "page 2"}},
      {"page-table", {ErrorCode::kProtocol, "was not agreed"}},
      {"patch", {ErrorCode::kIntegrity, "invalid"}},
      {"packed", {ErrorCode::kIntegrity, "invalid packed content"}},
      {"type", {ErrorCode::kProtocol, "type 153 is not known"}},
      {"length", {ErrorCode::kProtocol, "is beyond its limit"}},
      {"sequence", {ErrorCode::kProtocol, "sequence 3 instead of 2"}},
      {"region", {ErrorCode::kProtocol, "2 pages from 7 are not all in a region of 8"}},
      {"truncated", {ErrorCode::kLinkLost, "cut"}},
  };
  std::set<std::string> seen;
  for (const auto& entry : std::filesystem::directory_iterator(kGolden / "invalid")) {
    const std::string name = entry.path().filename().string();
    const Status decoded = decode_all(file_bytes(entry.path()));
    const auto refusal = refusals.find(name.substr(0, name.find('.')));
    if (refusal == refusals.end()) {
      EXPECT_TRUE(decoded) << name << ": " << decoded.error().to_text();
      continue;
    }
    seen.insert(refusal->first);
    ASSERT_FALSE(decoded) << name;
    EXPECT_EQ(decoded.error().code, refusal->second.first) << name;
    EXPECT_THAT(decoded.error().message, HasSubstr(refusal->second.second)) << name;
  }
  EXPECT_EQ(seen.size(), refusals.size());
}

TEST(GoldenStreams, CutAnywhereNeverDecodeToSomethingElse) {
  const auto frames = parse_capture(file_bytes(kGolden / "valid/stop_copy.capture"));
  ASSERT_TRUE(frames);
  std::size_t total = 0;
  for (const CaptureFrame& frame : *frames) total += frame.bytes.size();
  for (std::size_t keep = 0; keep < total; keep += 37) {
    Decoder decoder;
    std::size_t left = keep;
    for (CaptureFrame frame : *frames) {
      frame.bytes.resize(std::min(left, frame.bytes.size()));
      left -= frame.bytes.size();
      ASSERT_TRUE(decoder.feed(frame));
    }
  }
}

}  // namespace
}  // namespace migrate::wire::testing
