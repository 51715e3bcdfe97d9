#include "memory/word_ops.hpp"

#include <atomic>
#include <bit>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace migrate {
namespace {

template <typename Op>
void portable_combine(std::uint64_t* words, const std::uint64_t* other, std::size_t count, Op op) {
  for (std::size_t i = 0; i < count; ++i) words[i] = op(words[i], other[i]);
}

void portable_merge(std::uint64_t* words, const std::uint64_t* other, std::size_t count) {
  portable_combine(words, other, count, [](std::uint64_t a, std::uint64_t b) { return a | b; });
}
void portable_subtract(std::uint64_t* words, const std::uint64_t* other, std::size_t count) {
  portable_combine(words, other, count, [](std::uint64_t a, std::uint64_t b) { return a & ~b; });
}
void portable_intersect(std::uint64_t* words, const std::uint64_t* other, std::size_t count) {
  portable_combine(words, other, count, [](std::uint64_t a, std::uint64_t b) { return a & b; });
}

std::uint64_t portable_count(const std::uint64_t* words, std::size_t count) {
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < count; ++i) bits += static_cast<unsigned>(std::popcount(words[i]));
  return bits;
}

std::size_t portable_skip(const std::uint64_t* words, std::size_t from, std::size_t end,
                          std::uint64_t value) {
  // Eight at a time: one branch a cache line.
  for (; end - from >= 8; from += 8) {
    std::uint64_t different = 0;
    for (std::size_t i = 0; i < 8; ++i) different |= words[from + i] ^ value;
    if (different != 0) break;
  }
  while (from < end && words[from] == value) ++from;
  return from;
}

constexpr WordOps kPortable{"portable",         portable_merge, portable_subtract,
                            portable_intersect, portable_count, portable_skip};

#if defined(__x86_64__)

// Intrinsics in loops written out, not in lambdas or templates: what they are inlined into must
// have the target, and a lambda does not take it on.
#define MIGRATE_AVX2 __attribute__((target("avx2")))

constexpr std::size_t kLane = 4;          // Words of a register.
constexpr std::size_t kStep = 4 * kLane;  // 128 bytes: enough loads in flight for two a cycle.

MIGRATE_AVX2 inline __m256i load(const std::uint64_t* words) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
}
MIGRATE_AVX2 inline void store(std::uint64_t* words, __m256i value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), value);
}

MIGRATE_AVX2 void avx2_merge(std::uint64_t* words, const std::uint64_t* other, std::size_t count) {
  std::size_t i = 0;
  for (; count - i >= kStep; i += kStep) {
    for (std::size_t j = i; j < i + kStep; j += kLane) {
      store(words + j, _mm256_or_si256(load(words + j), load(other + j)));
    }
  }
  portable_merge(words + i, other + i, count - i);
}

MIGRATE_AVX2 void avx2_subtract(std::uint64_t* words, const std::uint64_t* other,
                                std::size_t count) {
  std::size_t i = 0;
  for (; count - i >= kStep; i += kStep) {
    for (std::size_t j = i; j < i + kStep; j += kLane) {
      store(words + j, _mm256_andnot_si256(load(other + j), load(words + j)));
    }
  }
  portable_subtract(words + i, other + i, count - i);
}

MIGRATE_AVX2 void avx2_intersect(std::uint64_t* words, const std::uint64_t* other,
                                 std::size_t count) {
  std::size_t i = 0;
  for (; count - i >= kStep; i += kStep) {
    for (std::size_t j = i; j < i + kStep; j += kLane) {
      store(words + j, _mm256_and_si256(load(words + j), load(other + j)));
    }
  }
  portable_intersect(words + i, other + i, count - i);
}

/// Bits of each byte, by looking up its halves (W. Mula, N. Kurz, D. Lemire: "Faster Population
/// Counts Using AVX2 Instructions", 2018, section 3.1).
MIGRATE_AVX2 inline __m256i bits_by_byte(__m256i value) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_set1_epi8(0x0f);
  const __m256i upper = _mm256_and_si256(_mm256_srli_epi16(value, 4), low);
  return _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(value, low)),
                         _mm256_shuffle_epi8(table, upper));
}

MIGRATE_AVX2 std::uint64_t avx2_count(const std::uint64_t* words, std::size_t count) {
  __m256i sums = _mm256_setzero_si256();  // Four of 64 bits.
  std::size_t i = 0;
  for (; count - i >= kStep; i += kStep) {
    __m256i bytes = _mm256_setzero_si256();  // At most 4 * 8 each.
    for (std::size_t j = i; j < i + kStep; j += kLane) {
      bytes = _mm256_add_epi8(bytes, bits_by_byte(load(words + j)));
    }
    sums = _mm256_add_epi64(sums, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
  }
  std::uint64_t parts[kLane];
  store(parts, sums);
  return parts[0] + parts[1] + parts[2] + parts[3] + portable_count(words + i, count - i);
}

/// A bit for each of four words: 1 for one that is `same`.
MIGRATE_AVX2 inline unsigned equal_words(const std::uint64_t* words, __m256i same) {
  const __m256i equal = _mm256_cmpeq_epi64(load(words), same);
  return static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(equal)));
}

MIGRATE_AVX2 std::size_t avx2_skip(const std::uint64_t* words, std::size_t from, std::size_t end,
                                   std::uint64_t value) {
  const __m256i same = _mm256_set1_epi64x(static_cast<long long>(value));
  for (; end - from >= kStep; from += kStep) {
    __m256i different = _mm256_setzero_si256();
    for (std::size_t j = from; j < from + kStep; j += kLane) {
      different = _mm256_or_si256(different, _mm256_xor_si256(load(words + j), same));
    }
    if (_mm256_testz_si256(different, different) != 0) continue;
    // Which of the sixteen, without a branch that nobody could predict.
    unsigned equal = 0;
    for (std::size_t j = 0; j < kStep; j += kLane) {
      equal |= equal_words(words + from + j, same) << j;
    }
    return from + static_cast<unsigned>(std::countr_one(equal));
  }
  return portable_skip(words, from, end, value);
}

#undef MIGRATE_AVX2

constexpr WordOps kAvx2{"avx2", avx2_merge, avx2_subtract, avx2_intersect, avx2_count, avx2_skip};

#endif

std::atomic<const WordOps*> chosen{nullptr};

}  // namespace

const WordOps& portable_word_ops() { return kPortable; }

const WordOps* avx2_word_ops() {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
  return has_avx2 ? &kAvx2 : nullptr;
#else
  return nullptr;
#endif
}

const WordOps& word_ops() {
  const WordOps* ops = chosen.load(std::memory_order_relaxed);
  if (ops == nullptr) {
    // Not by a static's constructor: page sets may be used before it.
    const WordOps* fastest = avx2_word_ops();
    ops = fastest != nullptr ? fastest : &kPortable;
    chosen.store(ops, std::memory_order_relaxed);
  }
  return *ops;
}

void use_word_ops(const WordOps* ops) { chosen.store(ops, std::memory_order_relaxed); }

}  // namespace migrate
