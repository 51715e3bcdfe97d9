// ClientHellos byte by byte: those that OpenSSL would never write, too.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace migrate::test {

using Bytes = std::string;

inline Bytes number(std::size_t value, int width) {
  Bytes bytes;
  for (int shift = 8 * (width - 1); shift >= 0; shift -= 8) {
    bytes += static_cast<char>(value >> shift & 0xff);
  }
  return bytes;
}
/// `body` after its length of `width` bytes, which is `wrong` more than it should be.
inline Bytes with_length(int width, const Bytes& body, std::size_t wrong = 0) {
  return number(body.size() + wrong, width) + body;
}
inline Bytes extension(std::size_t type, const Bytes& body, std::size_t wrong = 0) {
  return number(type, 2) + with_length(2, body, wrong);
}

/// What differs from a good one: how much is added to each length field.
struct HelloFaults {
  std::size_t record = 0;
  std::size_t message = 0;
  std::size_t session_id = 0;
  std::size_t ciphers = 0;
  std::size_t compression = 0;
  std::size_t extensions = 0;
  std::size_t alpn_extension = 0;
  std::size_t alpn_list = 0;
  std::size_t alpn_name = 0;
};

inline Bytes handshake_record(const Bytes& fragment, std::size_t wrong = 0) {
  return "\x16\x03\x01" + with_length(2, fragment, wrong);
}

/// The handshake message alone. `names`: offered by ALPN; none: without that extension.
inline Bytes client_hello_message(const std::optional<std::vector<Bytes>>& names,
                                  const HelloFaults& faults = {}) {
  // supported_versions: TLS 1.3; supported_groups and signature_algorithms as small as they get.
  Bytes extensions = extension(43, with_length(1, number(0x0304, 2)));
  extensions += extension(10, with_length(2, number(0x001d, 2)));
  extensions += extension(13, with_length(2, number(0x0403, 2)));
  if (names) {
    Bytes list;
    for (const Bytes& name : *names) list += with_length(1, name, faults.alpn_name);
    extensions += extension(16, with_length(2, list, faults.alpn_list), faults.alpn_extension);
  }
  Bytes body = number(0x0303, 2) + Bytes(32, 'r');
  body += with_length(1, Bytes(32, 's'), faults.session_id);
  body += with_length(2, number(0x1301, 2), faults.ciphers);
  body += with_length(1, Bytes(1, '\0'), faults.compression);
  body += with_length(2, extensions, faults.extensions);
  return "\x01" + with_length(3, body, faults.message);
}

inline Bytes client_hello(const std::optional<std::vector<Bytes>>& names,
                          const HelloFaults& faults = {}) {
  return handshake_record(client_hello_message(names, faults), faults.record);
}

}  // namespace migrate::test
