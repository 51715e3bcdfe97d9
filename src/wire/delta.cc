#include "wire/delta.hpp"

#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <string>

#include "wire/byte_difference.hpp"

namespace migrate::wire {
namespace {

constexpr std::size_t kBlocks = kPageSize / kBlockBytes;

// Another operation costs two bytes at least; equal bytes between changed ones are sent up to that
// many, for fewer operations at the same size.
constexpr std::size_t kGapMerged = 2;

// A page's counts and lengths are at most 4096, which takes 13 bits.
constexpr std::size_t kVarintBytesMax = 2;
constexpr std::size_t kOperationBytesMax = 2 * kVarintBytesMax;

/// One bit a byte of a page: set where two pages differ.
class DifferenceMap {
 public:
  DifferenceMap(const std::byte* base, const std::byte* page) {
    for (std::size_t block = 0; block < kBlocks; ++block) {
      const std::size_t at = block * kBlockBytes;
      words_[block] = differing_bytes(base + at, page + at);
    }
  }

  /// The first byte from `from` on that differs, or kPageSize.
  [[nodiscard]] std::size_t next_different(std::size_t from) const { return next<false>(from); }
  /// The first that does not, or kPageSize.
  [[nodiscard]] std::size_t next_equal(std::size_t from) const { return next<true>(from); }

 private:
  template <bool kInverted>
  [[nodiscard]] std::size_t next(std::size_t from) const {
    if (from >= kPageSize) return kPageSize;
    std::size_t block = from / kBlockBytes;
    std::uint64_t word =
        (kInverted ? ~words_[block] : words_[block]) & (~std::uint64_t{0} << (from % kBlockBytes));
    while (word == 0) {
      if (++block == kBlocks) return kPageSize;
      word = kInverted ? ~words_[block] : words_[block];
    }
    return block * kBlockBytes + static_cast<std::size_t>(std::countr_zero(word));
  }

  std::array<std::uint64_t, kBlocks> words_;
};

std::size_t put_varint(std::byte* to, std::size_t value) {
  if (value < 0x80) {
    *to = static_cast<std::byte>(value);
    return 1;
  }
  to[0] = static_cast<std::byte>(value | 0x80);
  to[1] = static_cast<std::byte>(value >> 7);
  return 2;
}

/// Reads a delta's varints; never beyond its end.
class DeltaReader {
 public:
  explicit DeltaReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  [[nodiscard]] bool at_end() const { return at_ == bytes_.size(); }
  [[nodiscard]] std::size_t at() const { return at_; }

  std::optional<std::size_t> varint() {
    if (at_ == bytes_.size()) return std::nullopt;
    const auto low = static_cast<std::size_t>(bytes_[at_++]);
    if (low < 0x80) return low;
    if (at_ == bytes_.size()) return std::nullopt;
    const auto high = static_cast<std::size_t>(bytes_[at_++]);
    // A third byte would be beyond a page, a zero says that one byte had been enough.
    if (high == 0 || high >= 0x80) return std::nullopt;
    return (low & 0x7f) | high << 7;
  }
  /// nullptr when there are not so many.
  const std::byte* take(std::size_t count) {
    if (bytes_.size() - at_ < count) return nullptr;
    at_ += count;
    return bytes_.data() + at_ - count;
  }

 private:
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

Error delta_error(std::size_t byte, const char* what) {
  return make_error(ErrorCode::kIntegrity,
                    "invalid delta of a page, byte " + std::to_string(byte) + ": " + what)
      .advise("check the network path, then send again; if it happens twice, please report it");
}

}  // namespace

std::size_t encode_delta(std::span<const std::byte, kPageSize> base,
                         std::span<const std::byte, kPageSize> page,
                         std::span<std::byte, kDeltaPaysBytes> into) {
  const DifferenceMap map(base.data(), page.data());
  std::size_t size = 0;
  std::size_t reached = 0;
  for (std::size_t begin = map.next_different(0); begin < kPageSize;) {
    std::size_t end = map.next_equal(begin);
    std::size_t next = map.next_different(end);
    while (next < kPageSize && next - end <= kGapMerged) {
      end = map.next_equal(next);
      next = map.next_different(end);
    }
    if (kDeltaPaysBytes - size < kOperationBytesMax + (end - begin)) return 0;
    size += put_varint(into.data() + size, begin - reached);
    size += put_varint(into.data() + size, end - begin);
    std::memcpy(into.data() + size, page.data() + begin, end - begin);
    size += end - begin;
    reached = end;
    begin = next;
  }
  return size;
}

Status decode_delta(std::span<const std::byte, kPageSize> base, std::span<const std::byte> delta,
                    std::span<std::byte, kPageSize> into) {
  if (delta.empty() || delta.size() > kDeltaBytesMax) {
    return delta_error(0, "it is empty or longer than a page");
  }
  if (into.data() != base.data()) std::memcpy(into.data(), base.data(), kPageSize);
  DeltaReader reader(delta);
  std::size_t reached = 0;
  while (!reader.at_end()) {
    const std::size_t operation = reader.at();
    const auto copied = reader.varint();
    if (!copied || (*copied == 0 && operation != 0) || *copied > kPageSize - reached) {
      return delta_error(operation, "the count of copied bytes is invalid");
    }
    reached += *copied;
    const std::size_t second = reader.at();
    const auto changed = reader.varint();
    if (!changed || *changed == 0 || *changed > kPageSize - reached) {
      return delta_error(second, "the count of changed bytes is invalid");
    }
    const std::byte* const bytes = reader.take(*changed);
    if (bytes == nullptr) return delta_error(reader.at(), "it ends within the changed bytes");
    std::memcpy(into.data() + reached, bytes, *changed);
    reached += *changed;
  }
  return {};
}

}  // namespace migrate::wire
