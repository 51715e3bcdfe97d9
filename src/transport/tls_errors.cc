#include "transport/tls_errors.hpp"

#include <openssl/err.h>
#include <openssl/x509_vfy.h>

namespace migrate {
namespace {

constexpr const char* kSameAuthority =
    "give both hosts certificates of one authority, and its certificate as --tls-ca";
constexpr const char* kCheckClock = "check the clocks of both hosts, or make a new certificate";
constexpr const char* kSameKey = "give both hosts the same --tls-psk file";
constexpr const char* kSameKind =
    "give both hosts certificates, or both the same pre-shared key (--tls-psk)";

Error unauthorized(std::string message, std::string remedy) {
  return make_error(ErrorCode::kUnauthorized, std::move(message)).advise(std::move(remedy));
}

/// This side does not accept the peer's certificate.
Error refused_here(const TlsFailure& at, long verdict) {
  const std::string whose = "the certificate of " + at.peer;
  const std::string reason = X509_verify_cert_error_string(verdict);
  switch (verdict) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return unauthorized(whose + " has expired", kCheckClock);
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return unauthorized(whose + " is not valid yet", kCheckClock);
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return unauthorized(whose + " is not for '" + at.context.peer_name() + "'",
                          "give the name that stands in its certificate as --tls-name, or make one "
                          "with this name");
    case X509_V_ERR_INVALID_PURPOSE:
      return unauthorized(
          whose + " is not meant for this side of TLS",
          "make certificates for serverAuth and clientAuth: each host may be either");
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_UNTRUSTED:
      // With a key there are no authorities at all.
      return at.context.uses_psk()
                 ? unauthorized(at.peer + " shows a certificate instead of the pre-shared key",
                                kSameKind)
                 : unauthorized(
                       whose + " is not of an authority that is trusted here (" + reason + ")",
                       kSameAuthority);
    default:
      return unauthorized(whose + " is not accepted: " + reason, kSameAuthority);
  }
}

/// The peer has refused this side, by an alert. nullptr: no alert about who this is.
const char* refused_there(int reason, const char*& remedy) {
  remedy = kSameAuthority;
  switch (reason) {
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
      return "it is not of an authority that is trusted there";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
      remedy = kCheckClock;
      // One that is not valid yet is told with the same alert.
      return "it has expired, or is not valid yet";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
      remedy = "make a new certificate";
      return "it was revoked";
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
      return "it cannot be used; the log there says why";
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
      remedy = "make certificates for serverAuth and clientAuth: each host may be either";
      return "it is not meant for this side of TLS";
    default:
      return nullptr;
  }
}

bool is_alert(int reason) { return reason >= SSL_AD_REASON_OFFSET; }

constexpr const char* kLookBetween =
    "look for devices between the hosts that change connections, and try again";

/// OpenSSL's words for what has no case of its own.
Error other_failure(const TlsFailure& at, const std::string& text) {
  if (at.established) {
    return make_error(ErrorCode::kProtocol, "TLS with " + at.peer + " broke: " + text)
        .advise(kLookBetween);
  }
  return make_error(ErrorCode::kUnauthorized,
                    "the TLS handshake with " + at.peer + " failed: " + text)
      .advise("see the other side's output for its reason");
}

Error wrong_protocol(const std::string& peer, const std::string& what) {
  return make_error(ErrorCode::kProtocol, peer + what)
      .advise(
          "use the same version of migrate on both hosts, and let nothing between them end TLS");
}

/// Without an alert about certificates: what else this side finds wrong.
Error by_reason(const TlsFailure& at, int reason, const std::string& text) {
  switch (reason) {
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      return unauthorized(at.peer + " shows no certificate",
                          "give --tls-cert and --tls-key there too");
    case SSL_R_BINDER_DOES_NOT_VERIFY:
      return unauthorized(at.peer + " does not have this host's pre-shared key", kSameKey);
    case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
    case SSL_R_NO_SHARED_CIPHER:
    case SSL_R_NO_SUITABLE_KEY_SHARE:
      return at.context.uses_psk()
                 ? unauthorized(at.peer + " does not offer this host's pre-shared key", kSameKey)
                 : unauthorized(at.peer + " and this host have no way to authenticate in common",
                                kSameKind);
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_NO_PROTOCOLS_AVAILABLE:
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
      return make_error(ErrorCode::kUnauthorized, at.peer + " does not speak TLS 1.3")
          .advise("TLS 1.3 is the only version that migrate accepts; use migrate on both sides");
    case SSL_R_NO_APPLICATION_PROTOCOL:
    case SSL_AD_REASON_OFFSET + SSL_AD_NO_APPLICATION_PROTOCOL:
      return wrong_protocol(at.peer, " speaks TLS, but not for migrations");
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
      // Who has done its handshake speaks TLS, whatever the network makes of it.
      return at.established ? other_failure(at, text)
                            : plain_peer_error(at.context.role(), at.peer);
    case SSL_R_UNEXPECTED_EOF_WHILE_READING:
      return silent_peer_error(at.context.role(), at.peer);
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
      return unauthorized(at.peer + " asks for a certificate of this host",
                          "give --tls-cert and --tls-key here too");
    case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE:
    case SSL_R_SSLV3_ALERT_ILLEGAL_PARAMETER:
    case SSL_R_TLSV1_ALERT_DECRYPT_ERROR:
      return at.context.uses_psk()
                 ? unauthorized(at.peer + " does not accept this host's pre-shared key (id " +
                                    at.context.psk_id() + ")",
                                kSameKey)
                 : unauthorized(at.peer + " and this host have no way to authenticate in common",
                                kSameKind);
    case SSL_R_SSLV3_ALERT_BAD_RECORD_MAC:
    case SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC:
      return make_error(ErrorCode::kIntegrity, "bytes on the way to or from " + at.peer +
                                                   " were changed, or the peer is broken")
          .advise(kLookBetween);
    default:
      return other_failure(at, text);
  }
}

}  // namespace

std::string last_openssl_reason() {
  const unsigned long code = ERR_peek_last_error();
  ERR_clear_error();
  if (code == 0) return {};
  const char* const text = ERR_SYSTEM_ERROR(code) ? nullptr : ERR_reason_error_string(code);
  if (text != nullptr) return text;
  char buffer[256];
  ERR_error_string_n(code, buffer, sizeof buffer);
  return buffer;
}

Error tls_error(const TlsFailure& at) {
  // The first is the cause, later ones are layers above it.
  const unsigned long code = ERR_peek_error();
  const int reason = ERR_GET_REASON(code);
  const char* const known = ERR_reason_error_string(code);
  const std::string text = known != nullptr ? known : "no reason known";
  ERR_clear_error();
  const long verdict = SSL_get_verify_result(at.ssl);
  if (!is_alert(reason)) {
    // Also where no certificate came: then OpenSSL leaves the verdict at OK.
    if (verdict != X509_V_OK && reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
      return refused_here(at, verdict);
    }
    return by_reason(at, reason, text);
  }
  const char* remedy = nullptr;
  if (const char* const why = refused_there(reason, remedy)) {
    return unauthorized(at.peer + " refuses this host's certificate: " + why, remedy);
  }
  return by_reason(at, reason, text);
}

Error plain_peer_error(TlsRole role, const std::string& peer) {
  if (role == TlsRole::kAccept) {
    return unauthorized(peer + " came without TLS, and this host takes guests by TLS only",
                        "give `migrate send` --tls-cert, --tls-key and --tls-ca, or --tls-psk");
  }
  return unauthorized(peer + " does not speak TLS",
                      "give `migrate recv` --tls-cert, --tls-key and --tls-ca, or --tls-psk");
}

Error silent_peer_error(TlsRole role, const std::string& peer) {
  return make_error(ErrorCode::kLinkLost, peer + " closed the connection in the TLS handshake")
      .advise(role == TlsRole::kConnect
                  ? "check that `migrate recv` takes TLS there, and see its output for the reason"
                  : "see the other side's output for the reason");
}

}  // namespace migrate
