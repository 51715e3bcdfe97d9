// A dirty trace's file, and sets of its pages in both forms. What is read can be written, and reads
// the same again. Bit 0 of the first byte says what the rest is; for a set, bit 1 is its form and
// the next two bytes its pages. For a file, bit 1 says that its checksums are made right first, or
// nothing behind them would ever be reached.
#include <array>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "forecast/trace_pages.hpp"
#include "migrate/dirty_trace.hpp"
#include "tests/fuzz/fuzz.hpp"
#include "wire/codec.hpp"
#include "wire/hasher.hpp"

namespace migrate {
namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void read_file(std::span<const std::byte> bytes) {
  const auto trace = decode_trace(bytes);
  if (!trace) return;
  const auto again = encode_trace(*trace);
  require(again.has_value());
  const auto same = decode_trace(*again);
  require(same.has_value() && *same == *trace);
}

constexpr std::size_t kPrologueBytes = 16;
constexpr std::size_t kHeaderBytes = 24;

std::vector<std::byte> signed_again(std::span<const std::byte> bytes) {
  std::vector<std::byte> file(bytes.begin(), bytes.end());
  const wire::Hasher hasher;
  for (std::size_t at = kPrologueBytes; file.size() >= at + kHeaderBytes;) {
    const std::size_t length = wire::load_u32(file.data() + at + 4);
    if (file.size() - at - kHeaderBytes < length) break;
    std::array<std::byte, kHeaderBytes> covered;
    std::memcpy(covered.data(), file.data() + at, 16);
    wire::store_u64(covered.data() + 16, hasher.hash({file.data() + at + kHeaderBytes, length}));
    wire::store_u64(file.data() + at + 16, hasher.hash(covered));
    at += kHeaderBytes + length;
  }
  return file;
}

void read_set(forecast::PageSetForm form, std::uint64_t total, std::span<const std::byte> bytes) {
  constexpr std::size_t kRunsMax = 1000;
  const auto pages = forecast::unpack(form, bytes, total, kRunsMax, 0);
  if (!pages) return;
  require(pages->size() <= kRunsMax && forecast::is_in_order(*pages, total));
  const auto packed = forecast::pack(*pages, total);
  const auto same = forecast::unpack(packed.form, packed.bytes, total, kRunsMax, 0);
  require(same.has_value() && *same == *pages);
}

}  // namespace
}  // namespace migrate

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = migrate::fuzz::input(data, size);
  if (size < 3) return 0;
  if ((data[0] & 1) == 0) {
    migrate::read_file(bytes.subspan(1));
    if ((data[0] & 2) != 0) migrate::read_file(migrate::signed_again(bytes.subspan(1)));
  } else {
    const auto form = static_cast<migrate::forecast::PageSetForm>((data[0] >> 1) & 1);
    migrate::read_set(form, data[1] | data[2] << 8, bytes.subspan(3));
  }
  return 0;
}
