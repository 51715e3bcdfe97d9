// TlsContext: files read, OpenSSL set up. Everything that has the same options shares one.
#pragma once

#include <openssl/ssl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/result.hpp"
#include "migrate/tls.hpp"

namespace migrate {

template <auto Function>
struct OpenSslDeleter {
  template <typename T>
  void operator()(T* object) const noexcept {
    Function(object);
  }
};
using SslContextPtr = std::unique_ptr<SSL_CTX, OpenSslDeleter<&SSL_CTX_free>>;
using SslPtr = std::unique_ptr<SSL, OpenSslDeleter<&SSL_free>>;

// Both sides insist on it, so that no TLS service of another kind can be mistaken for this one even
// where certificates are shared.
inline constexpr std::string_view kTlsProtocol = "migrate/1";
// Another protocol that is offered and never chosen: it tells a listener, which sees no more of a
// connection than the ClientHello, the session. The id's digits follow.
inline constexpr std::string_view kTlsSessionPrefix = "migrate/1 session=";

// RFC 8446, 5.5: AES-GCM takes 2^24.5 full records on one key. A sixth of that.
inline constexpr std::uint64_t kKeyUpdateBytes = std::uint64_t{64} << 30;

/// A pre-shared key, wiped when it goes.
struct PreSharedKey {
  std::vector<unsigned char> bytes;
  std::string id;  ///< Tells keys apart without telling anything about them.
  PreSharedKey() = default;
  ~PreSharedKey();
  PreSharedKey(PreSharedKey&&) = default;
  PreSharedKey& operator=(PreSharedKey&&) = default;
};

/// What OpenSSL tells of a handshake; an SSL object's application data.
struct TlsNotes {
  std::optional<std::string> announced;  ///< Of an accepting side: the session the peer offers.
};

class TlsContext {
 public:
  static Result<std::shared_ptr<TlsContext>> create(TlsRole role, const TlsOptions& options);
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  /// An SSL object for one connection, its BIOs and its TlsNotes still missing. A `session` is
  /// offered by a connecting side.
  [[nodiscard]] Result<SslPtr> new_connection(std::string_view session) const;
  [[nodiscard]] TlsRole role() const { return role_; }
  [[nodiscard]] bool uses_psk() const { return !psk_.bytes.empty(); }
  [[nodiscard]] const std::string& psk_id() const { return psk_.id; }
  [[nodiscard]] const std::string& peer_name() const { return peer_name_; }

  /// After how many bytes sent the sender's key is renewed; tests lower it.
  std::uint64_t key_update_bytes = kKeyUpdateBytes;

 private:
  TlsContext(TlsRole role, std::string peer_name) : role_(role), peer_name_(std::move(peer_name)) {}

  Status configure();
  Status use_certificates(const TlsOptions& options);
  Status use_psk(const std::string& file);
  Status check_peer_name(SSL* ssl) const;

  static int on_psk_use(SSL* ssl, const EVP_MD* digest, const unsigned char** id,
                        std::size_t* id_size, SSL_SESSION** session);
  static int on_psk_find(SSL* ssl, const unsigned char* id, std::size_t id_size,
                         SSL_SESSION** session);

  const TlsRole role_;
  const std::string peer_name_;
  PreSharedKey psk_;
  SslContextPtr context_;
};

}  // namespace migrate
