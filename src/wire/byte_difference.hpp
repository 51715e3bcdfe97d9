// Which bytes of two 64-byte blocks differ, one bit a byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace migrate::wire {

inline constexpr std::size_t kBlockBytes = 64;

/// Bit n is set when byte n differs; on any processor.
[[nodiscard]] inline std::uint64_t differing_bytes_portable(const std::byte* a,
                                                            const std::byte* b) {
  constexpr std::uint64_t kLow7 = 0x7f7f7f7f7f7f7f7fu;
  // Brings bit 8n to bit 56 + n: no two of the products' bits meet.
  constexpr std::uint64_t kGather = 0x0102040810204080u;
  std::uint64_t mask = 0;
  for (std::size_t at = 0; at < kBlockBytes; at += 8) {
    std::uint64_t x = 0;
    std::uint64_t y = 0;
    std::memcpy(&x, a + at, 8);
    std::memcpy(&y, b + at, 8);
    if (x == y) continue;
    x ^= y;
    const std::uint64_t not_zero = ((((x & kLow7) + kLow7) | x) & ~kLow7) >> 7;
    mask |= ((not_zero * kGather) >> 56) << at;
  }
  return mask;
}

#if defined(__SSE2__)
/// The same. SSE2 is in every x86-64, and a page in a core's cache is compared at 30 GB/s and more
/// (bench/parts), far above what finds and sends the page; wider registers would change nothing.
[[nodiscard]] inline std::uint64_t differing_bytes(const std::byte* a, const std::byte* b) {
  std::uint64_t equal = 0;
  for (std::size_t at = 0; at < kBlockBytes; at += 16) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + at));
    const __m128i y = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + at));
    const auto lanes = static_cast<std::uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(x, y)));
    equal |= std::uint64_t{lanes} << at;
  }
  return ~equal;
}
#else
[[nodiscard]] inline std::uint64_t differing_bytes(const std::byte* a, const std::byte* b) {
  return differing_bytes_portable(a, b);
}
#endif

}  // namespace migrate::wire
