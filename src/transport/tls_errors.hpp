// What OpenSSL says, in words an operator can act on.
#pragma once

#include <openssl/ssl.h>

#include <string>

#include "migrate/result.hpp"
#include "transport/tls_context.hpp"

namespace migrate {

/// The newest reason in this thread's queue of OpenSSL's errors, which is emptied.
[[nodiscard]] std::string last_openssl_reason();

/// Where a connection stood when OpenSSL gave up on it.
struct TlsFailure {
  const TlsContext& context;
  const SSL* ssl;
  std::string peer;
  bool established = false;  ///< The handshake was done on this side.
};

/// The error for a fatal failure that this thread's queue of OpenSSL's errors explains.
[[nodiscard]] Error tls_error(const TlsFailure& failure);

/// The peer's first byte begins no TLS record.
[[nodiscard]] Error plain_peer_error(TlsRole role, const std::string& peer);
/// The peer went away in the handshake and said nothing.
[[nodiscard]] Error silent_peer_error(TlsRole role, const std::string& peer);

}  // namespace migrate
