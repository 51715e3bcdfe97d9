#include "adapters/kvm/vmm/devices/mac_address.hpp"

#include <charconv>

namespace migrate::vmm {
namespace {

constexpr std::size_t kTextBytes = 17;

}  // namespace

Result<MacAddress> parse_mac(std::string_view text) {
  const auto refuse = [text](const std::string& why) {
    return make_error(ErrorCode::kInvalidArgument,
                      "'" + std::string(text) + "' is no MAC address of a machine: " + why)
        .advise("write it as 52:54:00:12:34:56");
  };
  if (text.size() != kTextBytes) return refuse("it is not six numbers");
  MacAddress mac;
  for (std::size_t i = 0; i < mac.bytes.size(); ++i) {
    const char* const first = text.data() + 3 * i;
    const auto [end, error] = std::from_chars(first, first + 2, mac.bytes[i], 16);
    if (error != std::errc() || end != first + 2) return refuse("it is not six numbers");
    if (i > 0 && first[-1] != ':') return refuse("there are no colons between its numbers");
  }
  if ((mac.bytes[0] & 1) != 0) return refuse("it is one of a group");
  if (mac == MacAddress{}) return refuse("it is all zero");
  return mac;
}

std::string to_text(const MacAddress& mac) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::uint8_t byte : mac.bytes) {
    if (!text.empty()) text += ':';
    text += kDigits[byte >> 4];
    text += kDigits[byte & 0xf];
  }
  return text;
}

}  // namespace migrate::vmm
