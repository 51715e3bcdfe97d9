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
/// The same. SSE2 is in every x86-64. Blocks are mostly equal where a delta pays: then one test is
/// enough.
[[nodiscard]] inline std::uint64_t differing_bytes(const std::byte* a, const std::byte* b) {
  __m128i equal[4];
  for (std::size_t i = 0; i < 4; ++i) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + 16 * i));
    const __m128i y = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + 16 * i));
    equal[i] = _mm_cmpeq_epi8(x, y);
  }
  const __m128i all =
      _mm_and_si128(_mm_and_si128(equal[0], equal[1]), _mm_and_si128(equal[2], equal[3]));
  if (_mm_movemask_epi8(all) == 0xFFFF) return 0;
  std::uint64_t mask = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    const auto lanes = static_cast<std::uint32_t>(_mm_movemask_epi8(equal[i]));
    mask |= std::uint64_t{lanes} << 16 * i;
  }
  return ~mask;
}
#else
[[nodiscard]] inline std::uint64_t differing_bytes(const std::byte* a, const std::byte* b) {
  return differing_bytes_portable(a, b);
}
#endif

}  // namespace migrate::wire
