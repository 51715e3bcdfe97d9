// Pre-shared keys in files.
#pragma once

#include <string>
#include <string_view>

#include "migrate/result.hpp"
#include "transport/tls_context.hpp"

namespace migrate {

// What RFC 9257, 6 asks for, and as much as the hashes of TLS take in without shortening it.
inline constexpr std::size_t kPskBytesMin = 16;
inline constexpr std::size_t kPskBytesMax = 64;

/// The key in `text`: hexadecimal or base64, white space around it. kInvalidArgument otherwise.
[[nodiscard]] Result<PreSharedKey> parse_psk(std::string_view text);
/// The same from a file, which the error names. Permissions are the caller's to check.
[[nodiscard]] Result<PreSharedKey> read_psk_file(const std::string& file);

}  // namespace migrate
