#include "memory/zero_page.hpp"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "migrate/memory.hpp"

namespace migrate {
namespace {

// A page that holds data mostly shows it early: 256 bytes are joined, then tested once.
constexpr std::size_t kStep = 256;

bool portable_is_zero(const std::byte* page) {
  constexpr std::size_t kWords = 4;
  for (std::size_t at = 0; at < kPageSize; at += kStep) {
    // Four sums: loads need not wait for each other.
    std::uint64_t joined[kWords] = {};
    for (std::size_t i = 0; i < kStep; i += sizeof(joined)) {
      std::uint64_t words[kWords];
      std::memcpy(words, page + at + i, sizeof(words));
      for (std::size_t j = 0; j < kWords; ++j) joined[j] |= words[j];
    }
    if ((joined[0] | joined[1] | joined[2] | joined[3]) != 0) return false;
  }
  return true;
}

#if defined(__x86_64__)

#define MIGRATE_AVX2 __attribute__((target("avx2")))

MIGRATE_AVX2 inline __m256i pair(const std::byte* at) {
  const auto* words = reinterpret_cast<const __m256i*>(at);
  return _mm256_or_si256(_mm256_loadu_si256(words), _mm256_loadu_si256(words + 1));
}

// From memory 1.6 x the portable one's speed, from the cache 7 x (EPYC). Neither 64-byte registers
// nor prefetching ahead of the processor's own make it faster.
MIGRATE_AVX2 bool avx2_is_zero(const std::byte* page) {
  for (std::size_t at = 0; at < kPageSize; at += kStep) {
    const __m256i joined =
        _mm256_or_si256(_mm256_or_si256(pair(page + at), pair(page + at + 64)),
                        _mm256_or_si256(pair(page + at + 128), pair(page + at + 192)));
    if (_mm256_testz_si256(joined, joined) == 0) return false;
  }
  return true;
}

#undef MIGRATE_AVX2

#endif

}  // namespace

ZeroPageCheck portable_zero_page_check() { return portable_is_zero; }

ZeroPageCheck avx2_zero_page_check() {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
  return has_avx2 ? avx2_is_zero : nullptr;
#else
  return nullptr;
#endif
}

bool is_zero_page(const std::byte* page) {
  static const ZeroPageCheck check =
      avx2_zero_page_check() != nullptr ? avx2_zero_page_check() : portable_zero_page_check();
  return check(page);
}

}  // namespace migrate
