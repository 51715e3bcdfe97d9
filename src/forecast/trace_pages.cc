#include "forecast/trace_pages.hpp"

#include <bit>
#include <string>

#include "wire/codec.hpp"

namespace migrate::forecast {
namespace {

constexpr std::size_t kVarintBytesMax = 5;  // Of 32 bits.

void append_varint(std::vector<std::byte>& to, std::uint32_t value) {
  while (value >= 0x80) {
    to.push_back(static_cast<std::byte>(value | 0x80));
    value >>= 7;
  }
  to.push_back(static_cast<std::byte>(value));
}

std::size_t words_bytes(std::uint64_t total) { return (total + 63) / 64 * 8; }

/// Appends a run, or makes the last one longer where they touch.
void append(TracePages& pages, std::uint64_t first, std::uint64_t count) {
  if (!pages.empty() && pages.back().first + std::uint64_t{pages.back().count} == first) {
    pages.back().count += static_cast<std::uint32_t>(count);
  } else {
    pages.push_back({static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(count)});
  }
}

/// Appends the runs of 64 pages from `base` on.
void append_word(TracePages& pages, std::uint64_t base, std::uint64_t word) {
  while (word != 0) {
    const int first = std::countr_zero(word);
    const int count = std::countr_one(word >> first);
    append(pages, base + static_cast<unsigned>(first), static_cast<unsigned>(count));
    if (first + count == 64) return;
    word &= ~std::uint64_t{0} << (first + count);
  }
}

class RunReader {
 public:
  RunReader(std::span<const std::byte> bytes, std::uint64_t total, std::uint64_t offset)
      : bytes_(bytes), total_(total), offset_(offset) {}

  Result<TracePages> read(std::size_t runs_max) {
    TracePages pages;
    std::uint64_t end = 0;
    while (at_ < bytes_.size()) {
      const std::size_t begin = at_;
      MIGRATE_ASSIGN(const std::uint32_t gap, varint());
      MIGRATE_ASSIGN(const std::uint32_t count, varint());
      if (count == 0 || (gap == 0 && !pages.empty())) return wrong(begin, "a run is not maximal");
      if (end + gap + count > total_) return wrong(begin, "a run ends beyond the last page");
      if (pages.size() == runs_max) return wrong(begin, "more runs than a trace may have");
      end += gap;
      pages.push_back({static_cast<std::uint32_t>(end), count});
      end += count;
    }
    return pages;
  }

 private:
  Result<std::uint32_t> varint() {
    const std::size_t begin = at_;
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < kVarintBytesMax; ++i, ++at_) {
      if (at_ == bytes_.size()) return wrong(begin, "a number ends too early");
      const auto byte = static_cast<std::uint8_t>(bytes_[at_]);
      value |= std::uint64_t{byte & 0x7fu} << (7 * i);
      if ((byte & 0x80) != 0) continue;
      ++at_;
      if (value > UINT32_MAX) break;
      // One way to write each number.
      if (i > 0 && byte == 0) return wrong(begin, "a number is longer than it has to be");
      return static_cast<std::uint32_t>(value);
    }
    return wrong(begin, "a number has more than 32 bits");
  }
  [[nodiscard]] Error wrong(std::size_t at, const char* what) const {
    return make_error(ErrorCode::kIntegrity, "invalid page set in the trace, byte " +
                                                 std::to_string(offset_ + at) + ": " + what);
  }

  std::span<const std::byte> bytes_;
  std::uint64_t total_;
  std::uint64_t offset_;
  std::size_t at_ = 0;
};

Result<TracePages> read_words(std::span<const std::byte> bytes, std::uint64_t total,
                              std::size_t runs_max, std::uint64_t offset) {
  const auto wrong = [&](std::size_t at, const char* what) {
    return make_error(ErrorCode::kIntegrity, "invalid page set in the trace, byte " +
                                                 std::to_string(offset + at) + ": " + what);
  };
  if (bytes.size() != words_bytes(total)) return wrong(0, "not one bit for each page");
  TracePages pages;
  for (std::size_t at = 0; at < bytes.size(); at += 8) {
    const std::uint64_t word = wire::load_u64(bytes.data() + at);
    const std::uint64_t base = std::uint64_t{at} * 8;
    if (total - base < 64 && (word >> (total - base)) != 0) {
      return wrong(at, "bits beyond the last page");
    }
    append_word(pages, base, word);
    if (pages.size() > runs_max) return wrong(at, "more runs than a trace may have");
  }
  return pages;
}

}  // namespace

bool is_in_order(const TracePages& pages, std::uint64_t total) {
  std::uint64_t end = 0;
  bool first = true;
  for (const TraceRun& run : pages) {
    if (run.count == 0 || run.first < end || (!first && run.first == end)) return false;
    end = std::uint64_t{run.first} + run.count;
    first = false;
  }
  return end <= total;
}

PackedPages pack(const TracePages& pages, std::uint64_t total) {
  PackedPages packed;
  std::uint32_t end = 0;
  const std::size_t words = words_bytes(total);
  for (const TraceRun& run : pages) {
    append_varint(packed.bytes, run.first - end);
    append_varint(packed.bytes, run.count);
    end = run.first + run.count;
    if (packed.bytes.size() > words) break;
  }
  if (packed.bytes.size() <= words) return packed;
  packed.form = PageSetForm::kWords;
  packed.bytes.assign(words, std::byte{0});
  for (const TraceRun& run : pages) {
    for (std::uint64_t page = run.first; page < std::uint64_t{run.first} + run.count; ++page) {
      packed.bytes[page / 8] |= static_cast<std::byte>(1u << (page % 8));
    }
  }
  return packed;
}

Result<TracePages> unpack(PageSetForm form, std::span<const std::byte> bytes, std::uint64_t total,
                          std::size_t runs_max, std::uint64_t offset) {
  if (form == PageSetForm::kWords) return read_words(bytes, total, runs_max, offset);
  return RunReader(bytes, total, offset).read(runs_max);
}

TracePages number_pages(const PageBitmap& set) {
  TracePages pages;
  std::uint64_t base = 0;
  for (const auto& segment : set.segments()) {
    const GuestPage first = segment.region.range.first;
    const GuestPage end = segment.region.range.end();
    for (PageRange run = next_run(segment, first, end); !run.empty();
         run = next_run(segment, run.end(), end)) {
      append(pages, base + (run.first - first), run.count);
    }
    base += segment.region.range.count;
  }
  return pages;
}

std::uint64_t count(const TracePages& pages) {
  std::uint64_t sum = 0;
  for (const TraceRun& run : pages) sum += run.count;
  return sum;
}

}  // namespace migrate::forecast
