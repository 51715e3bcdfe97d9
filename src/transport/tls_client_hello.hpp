// What a listener can see of a TLS connection without taking part in it.
#pragma once

#include <openssl/ssl.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace migrate {

struct TlsClientHello {
  enum class Kind : std::uint8_t {
    kIncomplete,  ///< So far so good.
    kNotTls,      ///< Does not begin as TLS does.
    kWhole,       ///< Has come; `session` is empty where it names none, or is no TLS of ours.
  };
  Kind kind = Kind::kIncomplete;
  std::string session;  ///< As Connector::set_session() was given it; said by a stranger.
};

// Ours have some 300 to 600 bytes; those of clients that offer much more are not ours.
inline constexpr std::size_t kClientHelloMax = 4096;

/// Looks at the first bytes of a connection, which may be anything.
[[nodiscard]] TlsClientHello read_client_hello(std::span<const std::byte> bytes);

/// The session that the ClientHello names which OpenSSL has just parsed: for its callback.
[[nodiscard]] std::string session_in_client_hello(SSL* ssl);

}  // namespace migrate
