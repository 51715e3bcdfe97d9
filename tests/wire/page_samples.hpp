// Pages to encode: made by a seed.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "migrate/memory.hpp"

namespace migrate::wire::testing {

using Page = std::array<std::byte, kPageSize>;

inline Page random_page(std::mt19937_64& random) {
  Page page;
  for (std::size_t at = 0; at < page.size(); at += 8) {
    const std::uint64_t word = random();
    std::memcpy(page.data() + at, &word, 8);
  }
  return page;
}

/// Words of a small vocabulary and, in half the places, letters: packs two to three times.
inline Page text_page(std::mt19937_64& random) {
  static constexpr char kWords[] =
      "guests, memory  pages:  running sources targets copied, written ";
  Page page;
  for (std::size_t at = 0; at < page.size(); at += 8) {
    std::uint64_t word = (random() & 0x0f0f0f0f0f0f0f0fu) + 0x6161616161616161u;
    if (random() % 2 == 0) std::memcpy(&word, kWords + 8 * (random() % 8), 8);
    std::memcpy(page.data() + at, &word, 8);
  }
  return page;
}

/// Changes `bytes` bytes from `at` on, every one of them.
inline void change(Page& page, std::size_t at, std::size_t bytes, std::mt19937_64& random) {
  for (std::size_t i = at; i < std::min(at + bytes, page.size()); ++i) {
    page[i] ^= static_cast<std::byte>(1 + random() % 255);
  }
}

}  // namespace migrate::wire::testing
