#include "wire/ids.hpp"

namespace migrate::wire {
namespace {

constexpr std::string_view kDigits = "0123456789abcdef";

}  // namespace

std::string to_text(const SessionId& session) {
  std::string text;
  text.reserve(2 * session.bytes.size());
  for (const std::byte byte : session.bytes) {
    const auto value = std::to_integer<unsigned>(byte);
    text += kDigits[value >> 4];
    text += kDigits[value & 15];
  }
  return text;
}

Result<SessionId> parse_session_id(std::string_view text) {
  SessionId session;
  const auto invalid = [&] {
    return make_error(ErrorCode::kInvalidArgument,
                      "\"" + std::string(text.substr(0, 64)) + "\" is not a session id")
        .advise("give the 32 hexadecimal digits that the report shows as \"session\"");
  };
  if (text.size() != 2 * session.bytes.size()) return invalid();
  for (std::size_t i = 0; i < session.bytes.size(); ++i) {
    const std::size_t high = kDigits.find(text[2 * i]);
    const std::size_t low = kDigits.find(text[2 * i + 1]);
    if (high == std::string_view::npos || low == std::string_view::npos) return invalid();
    session.bytes[i] = static_cast<std::byte>(high << 4 | low);
  }
  return session;
}

bool equal(const JoinSecret& a, const JoinSecret& b) noexcept {
  // No early exit: the time must not tell how many bytes were right.
  volatile unsigned difference = 0;
  for (std::size_t i = 0; i < a.bytes.size(); ++i) {
    difference = difference | std::to_integer<unsigned>(a.bytes[i] ^ b.bytes[i]);
  }
  return difference == 0;
}

}  // namespace migrate::wire
