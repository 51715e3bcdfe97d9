#include "wire/text.hpp"

#include <array>
#include <cstdint>

namespace migrate::wire {
namespace {

/// Bytes of the well-formed, printable character `text` begins with, or 0 (Unicode 15, table 3-7).
std::size_t character_bytes(std::string_view text) {
  const auto at = [&](std::size_t i) -> unsigned { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = at(0);
  if (lead < 0x80) return lead >= 0x20 && lead != 0x7F ? 1 : 0;
  const std::size_t bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < bytes) return 0;
  std::uint32_t code = lead & (0x7Fu >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((at(i) & 0xC0) != 0x80) return 0;
    code = code << 6 | (at(i) & 0x3F);
  }
  constexpr std::array<std::uint32_t, 5> kSmallest = {0, 0, 0xA0, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  return code >= kSmallest[bytes] && code <= 0x10FFFF && !surrogate ? bytes : 0;
}

}  // namespace

bool is_plain_text(std::string_view text) {
  while (!text.empty()) {
    const std::size_t bytes = character_bytes(text);
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

std::string clean_text(std::string_view text, std::size_t bytes_max) {
  std::string clean;
  while (!text.empty()) {
    const std::size_t good = character_bytes(text);
    const std::size_t bytes = good == 0 ? 1 : good;
    if (clean.size() + bytes > bytes_max) break;
    if (good != 0 || text.front() == '\n') {
      clean.append(text.substr(0, bytes));
    } else {
      clean += '?';
    }
    text.remove_prefix(bytes);
  }
  return clean;
}

}  // namespace migrate::wire
