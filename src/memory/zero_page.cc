#include "memory/zero_page.hpp"

#include <cstdint>
#include <cstring>

#include "migrate/memory.hpp"

namespace migrate {

bool is_zero_page(const std::byte* page) {
  // A page that holds data mostly shows it early: each 256 bytes are joined by wide ORs, then
  // tested once, which lets the compiler use the widest registers it may.
  constexpr std::size_t kStep = 256;
  for (std::size_t at = 0; at < kPageSize; at += kStep) {
    std::uint64_t words[kStep / sizeof(std::uint64_t)];
    std::memcpy(words, page + at, kStep);
    std::uint64_t joined = 0;
    for (const std::uint64_t word : words) joined |= word;
    if (joined != 0) return false;
  }
  return true;
}

}  // namespace migrate
