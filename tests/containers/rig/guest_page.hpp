#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace migrate::rig {

inline constexpr size_t kPageBytes = 4096;
inline constexpr size_t kPageWords = kPageBytes / sizeof(uint64_t);

// What a page holds follows from its number and generation in every word, so that a page of another
// place, of another time, or torn between two times is told apart. Generation 0 is zeros.
inline uint64_t PageSeed(uint64_t number, uint64_t generation) {
  uint64_t seed = number * 0x9E3779B97F4A7C15u ^ generation * 0xC2B2AE3D27D4EB4Fu;
  seed ^= seed >> 29;
  seed *= 0xBF58476D1CE4E5B9u;
  return seed ^ seed >> 32;
}

inline void FillPage(std::byte* page, uint64_t number, uint64_t generation) {
  uint64_t words[kPageWords] = {number, generation};
  if (generation == 0) {
    words[0] = 0;
  } else {
    uint64_t value = PageSeed(number, generation);
    uint64_t sum = 0;
    for (size_t i = 2; i + 1 < kPageWords; ++i) {
      words[i] = value;
      sum += value;
      value = value * 6364136223846793005u + 1442695040888963407u;
    }
    words[kPageWords - 1] = sum ^ generation;
  }
  std::memcpy(page, words, kPageBytes);
}

inline bool PageIsRight(const std::byte* page, uint64_t number, uint64_t generation) {
  std::byte wanted[kPageBytes];
  FillPage(wanted, number, generation);
  return std::memcmp(page, wanted, kPageBytes) == 0;
}

}  // namespace migrate::rig
