// A delta from a peer: applied apart and in place it gives the same. And two pages made of the
// input: their delta gives the second again.
#include <algorithm>
#include <array>
#include <cstdlib>

#include "tests/fuzz/fuzz.hpp"
#include "wire/delta.hpp"

namespace migrate::wire {
namespace {

using Page = std::array<std::byte, kPageSize>;

void require(bool condition) {
  if (!condition) std::abort();
}

Page base_page() {
  Page page;
  for (std::size_t i = 0; i < page.size(); ++i) page[i] = static_cast<std::byte>(i * 31 >> 3);
  return page;
}

void decode(std::span<const std::byte> delta) {
  const Page base = base_page();
  Page apart{};
  Page in_place = base;
  const Status first = decode_delta(base, delta, apart);
  const Status second = decode_delta(in_place, delta, in_place);
  require(first.has_value() == second.has_value());
  if (first) require(apart == in_place);
}

void encode(std::span<const std::byte> bytes) {
  const Page base = base_page();
  Page page = base;
  // Pieces of the input over the page: a place (two bytes), then up to 64 bytes.
  while (bytes.size() > 2) {
    const std::size_t at =
        (static_cast<std::size_t>(bytes[0]) | static_cast<std::size_t>(bytes[1]) << 8) % kPageSize;
    const std::size_t count = std::min({bytes.size() - 2, std::size_t{64}, kPageSize - at});
    std::copy_n(bytes.begin() + 2, count, page.begin() + static_cast<std::ptrdiff_t>(at));
    bytes = bytes.subspan(2 + count);
  }
  std::array<std::byte, kDeltaPaysBytes> delta;
  const std::size_t size = encode_delta(base, page, delta);
  require(size <= delta.size());
  if (size == 0) return;
  Page again{};
  require(decode_delta(base, std::span(delta).first(size), again).has_value());
  require(again == page);
}

}  // namespace
}  // namespace migrate::wire

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = migrate::fuzz::input(data, size);
  migrate::wire::decode(bytes);
  migrate::wire::encode(bytes);
  return 0;
}
