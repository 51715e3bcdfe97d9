// A page as its difference from what it was. See docs/wire-format.md, "A delta".
#pragma once

#include <cstddef>
#include <span>

#include "migrate/memory.hpp"
#include "migrate/result.hpp"
#include "wire/pages.hpp"

namespace migrate::wire {

/// A delta of more than three quarters of a page does not pay: it costs both sides a pass over the
/// old page, and a raw page is received in place.
inline constexpr std::size_t kDeltaPaysBytes = kPageSize / 4 * 3;

/// What makes `page` of `base`. Writes at most kDeltaPaysBytes to `into` and says how many; 0 when
/// they would not do, and for equal pages, for which there is nothing to send. Any thread.
[[nodiscard]] std::size_t encode_delta(std::span<const std::byte, kPageSize> base,
                                       std::span<const std::byte, kPageSize> page,
                                       std::span<std::byte, kDeltaPaysBytes> into);

/// Makes the page again: `delta` is the peer's and may hold anything. `into` may be `base` itself,
/// where only the changed bytes are written; otherwise they must not overlap. After an error `into`
/// is in between. kIntegrity, with the byte in `delta`.
[[nodiscard]] Status decode_delta(std::span<const std::byte, kPageSize> base,
                                  std::span<const std::byte> delta,
                                  std::span<std::byte, kPageSize> into);

}  // namespace migrate::wire
