// TLS 1.3 on channels of any kind, by certificates on both sides or by a key that both have.
#pragma once

#include <memory>
#include <string>

#include "migrate/channel.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// Who this side is and whom it trusts: the first three files, or `psk_file`. All are read once.
struct TlsOptions {
  std::string
      certificate_file;  ///< PEM: this host's certificate, then those between it and the CA.
  std::string key_file;  ///< PEM: its private key, unencrypted, not readable by everybody.
  std::string ca_file;   ///< PEM: the authorities whose certificates are trusted; no others.
  /// A pre-shared key of 16 to 64 bytes in hexadecimal or base64, readable by its owner only.
  std::string psk_file;
  /// The DNS name or IP address that the target's certificate must carry as a subject alternative
  /// name. Needed to connect by certificate, not looked at otherwise.
  std::string peer_name;

  [[nodiscard]] bool enabled() const {
    return !certificate_file.empty() || !key_file.empty() || !ca_file.empty() || !psk_file.empty();
  }
  friend bool operator==(const TlsOptions&, const TlsOptions&) = default;
};

/// Which end of a connection: the source connects, the target accepts.
enum class TlsRole : std::uint8_t { kConnect, kAccept };

/// What all connections with the same options share. May be used by several threads.
class TlsContext;

/// Reads and checks the files. kInvalidArgument names the file or option that will not do.
[[nodiscard]] Result<std::shared_ptr<TlsContext>> make_tls_context(TlsRole role,
                                                                   const TlsOptions& options);

/// Channels of `inner`, secured: connect() ends with the handshake done and the target known. Who
/// is not trusted is kUnauthorized. The target may still refuse this side's certificate: then what
/// is sent or received first fails with kUnauthorized.
[[nodiscard]] std::unique_ptr<Connector> make_tls_connector(std::unique_ptr<Connector> inner,
                                                            std::shared_ptr<TlsContext> context);

/// Channels of `inner`, secured. accept() does not wait for the handshake: the first send() or
/// receive() on a channel does, within its `idle_max` as a whole, and fails with kUnauthorized for
/// a peer that is not trusted, kProtocol for one that does not speak TLS 1.3.
[[nodiscard]] std::unique_ptr<Acceptor> make_tls_acceptor(std::unique_ptr<Acceptor> inner,
                                                          std::shared_ptr<TlsContext> context);

/// Secures one channel that somebody else made, on the accepting side; as make_tls_acceptor().
[[nodiscard]] Result<std::unique_ptr<Channel>> make_tls_channel(
    std::unique_ptr<Channel> inner, const std::shared_ptr<TlsContext>& context);

}  // namespace migrate
