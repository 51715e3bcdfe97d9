#include "transport/tls_context.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "base/fd.hpp"
#include "transport/tls_client_hello.hpp"
#include "transport/tls_errors.hpp"
#include "transport/tls_key_file.hpp"

namespace migrate {
namespace {

using SessionPtr = std::unique_ptr<SSL_SESSION, OpenSslDeleter<&SSL_SESSION_free>>;

// AES-GCM first: it is the fastest where the processor has AES instructions, and hosts of guests
// do.
constexpr const char* kCiphers =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
// TLS_AES_128_GCM_SHA256 of RFC 8446, B.4. An external key is bound to a hash: SHA-256, which RFC
// 8446, 4.2.11 takes where nothing is said.
constexpr unsigned char kPskCipher[] = {0x13, 0x01};

Error misused(std::string message, std::string remedy) {
  return make_error(ErrorCode::kInvalidArgument, std::move(message)).advise(std::move(remedy));
}

Error cannot_read(const char* option, const std::string& file, const char* what) {
  const std::string reason = last_openssl_reason();
  return misused(std::string(option) + ": " + file + " has no usable " + what +
                     (reason.empty() ? "" : ": " + reason),
                 "give a readable PEM file");
}

Status check_private(const char* option, const std::string& file, mode_t forbidden) {
  struct stat status {};
  if (::stat(file.c_str(), &status) != 0) {
    return make_errno_error(ErrorCode::kInvalidArgument, errno,
                            std::string(option) + ": cannot read " + file)
        .advise("give a file that exists and that you may read");
  }
  if ((status.st_mode & forbidden) == 0) return {};
  return misused(std::string(option) + ": others may read " + file,
                 "chmod 600 " + file + ", and replace the key if others may have read it");
}

/// The select callback's contract: a list of length-prefixed names.
int select_protocol(SSL* /*ssl*/, const unsigned char** out, unsigned char* out_size,
                    const unsigned char* in, unsigned int in_size, void* /*context*/) {
  for (unsigned int at = 0; at < in_size && at + 1 + in[at] <= in_size; at += 1u + in[at]) {
    const std::string_view name(reinterpret_cast<const char*>(in + at + 1), in[at]);
    if (name != kTlsProtocol) continue;
    *out = in + at + 1;
    *out_size = in[at];
    return SSL_TLSEXT_ERR_OK;
  }
  return SSL_TLSEXT_ERR_ALERT_FATAL;
}

/// Of each ClientHello: a peer that is asked for another one may not change what the first said, by
/// which it was brought here (RFC 8446, 4.1.2).
int note_session(SSL* ssl, int* alert, void* /*argument*/) {
  auto* const notes = static_cast<TlsNotes*>(SSL_get_app_data(ssl));
  std::string session = session_in_client_hello(ssl);
  if (notes->announced.value_or(session) != session) {
    *alert = SSL_AD_ILLEGAL_PARAMETER;
    return SSL_CLIENT_HELLO_ERROR;
  }
  notes->announced = std::move(session);
  return SSL_CLIENT_HELLO_SUCCESS;
}

/// RFC 7301, 3.1: each name after its length.
std::string protocol_list(std::string_view session) {
  std::string list = static_cast<char>(kTlsProtocol.size()) + std::string(kTlsProtocol);
  if (session.empty()) return list;
  const std::string name = std::string(kTlsSessionPrefix) + std::string(session);
  return list + static_cast<char>(name.size()) + name;
}

bool is_ip_address(const std::string& name) {
  in6_addr address{};
  return ::inet_pton(AF_INET, name.c_str(), &address) == 1 ||
         ::inet_pton(AF_INET6, name.c_str(), &address) == 1;
}

Status check_options(TlsRole role, const TlsOptions& options) {
  const bool any_certificate =
      !options.certificate_file.empty() || !options.key_file.empty() || !options.ca_file.empty();
  const bool all_certificate =
      !options.certificate_file.empty() && !options.key_file.empty() && !options.ca_file.empty();
  if (any_certificate && !options.psk_file.empty()) {
    return misused("TLS goes by certificates or by a pre-shared key, not by both",
                   "give --tls-cert, --tls-key and --tls-ca, or --tls-psk");
  }
  if (options.psk_file.empty() && !all_certificate) {
    return misused("TLS by certificates needs a certificate, its key and the authority to trust",
                   "give --tls-cert, --tls-key and --tls-ca, or --tls-psk");
  }
  if (role == TlsRole::kConnect && any_certificate && options.peer_name.empty()) {
    return misused("there is no name to look for in the target's certificate", "give --tls-name");
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<TlsContext>> make_tls_context(TlsRole role, const TlsOptions& options) {
  return TlsContext::create(role, options);
}

Result<std::shared_ptr<TlsContext>> TlsContext::create(TlsRole role, const TlsOptions& options) {
  MIGRATE_TRY(check_options(role, options));
  ERR_clear_error();
  std::shared_ptr<TlsContext> context(new TlsContext(role, options.peer_name));
  MIGRATE_TRY(context->configure());
  MIGRATE_TRY(options.psk_file.empty() ? context->use_certificates(options)
                                       : context->use_psk(options.psk_file));
  return context;
}

Status TlsContext::configure() {
  context_.reset(
      SSL_CTX_new(role_ == TlsRole::kConnect ? TLS_client_method() : TLS_server_method()));
  SSL_CTX* const ctx = context_.get();
  if (ctx == nullptr || SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(ctx, kCiphers) != 1 || SSL_CTX_set_num_tickets(ctx, 0) != 1) {
    return make_error(ErrorCode::kUnsupported,
                      "OpenSSL cannot be set up for TLS 1.3: " + last_openssl_reason())
        .advise("check the host's OpenSSL configuration (openssl.cnf)");
  }
  SSL_CTX_set_alpn_select_cb(ctx, select_protocol, nullptr);
  if (role_ == TlsRole::kAccept) SSL_CTX_set_client_hello_cb(ctx, note_session, nullptr);
  // No tickets and no cache: each connection proves anew who it is.
  SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                               SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_max_early_data(ctx, 0);
  SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return {};
}

Status TlsContext::use_certificates(const TlsOptions& options) {
  SSL_CTX* const ctx = context_.get();
  if (SSL_CTX_use_certificate_chain_file(ctx, options.certificate_file.c_str()) != 1) {
    return cannot_read("--tls-cert", options.certificate_file, "certificate");
  }
  // A group may share a key, as Debian's ssl-cert does.
  MIGRATE_TRY(check_private("--tls-key", options.key_file, S_IRWXO));
  // Without this a key with a passphrase would be asked for on the terminal.
  SSL_CTX_set_default_passwd_cb(ctx, [](char*, int, int, void*) { return 0; });
  if (SSL_CTX_use_PrivateKey_file(ctx, options.key_file.c_str(), SSL_FILETYPE_PEM) != 1) {
    if (ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH) {
      ERR_clear_error();
      return misused(
          "--tls-key: " + options.key_file + " is not the key of " + options.certificate_file,
          "give the key that the certificate was made for");
    }
    return cannot_read("--tls-key", options.key_file, "private key without a passphrase");
  }
  if (SSL_CTX_load_verify_file(ctx, options.ca_file.c_str()) != 1) {
    return cannot_read("--tls-ca", options.ca_file, "certificate");
  }
  return {};
}

Status TlsContext::use_psk(const std::string& file) {
  MIGRATE_TRY(check_private("--tls-psk", file, S_IRWXG | S_IRWXO));
  MIGRATE_ASSIGN(psk_, read_psk_file(file));
  SSL_CTX_set_app_data(context_.get(), this);
  if (role_ == TlsRole::kConnect) {
    SSL_CTX_set_psk_use_session_callback(context_.get(), &TlsContext::on_psk_use);
  } else {
    // To OpenSSL a key is a session, and an accepting side that verifies wants theirs named.
    constexpr unsigned char kSessionContext[] = {'m', 'i', 'g', 'r', 'a', 't', 'e'};
    SSL_CTX_set_session_id_context(context_.get(), kSessionContext, sizeof kSessionContext);
    SSL_CTX_set_psk_find_session_callback(context_.get(), &TlsContext::on_psk_find);
  }
  return {};
}

namespace {

SSL_SESSION* session_of(SSL* ssl, const PreSharedKey& key) {
  SessionPtr session(SSL_SESSION_new());
  const SSL_CIPHER* const cipher = SSL_CIPHER_find(ssl, kPskCipher);
  if (session == nullptr || cipher == nullptr ||
      SSL_SESSION_set1_master_key(session.get(), key.bytes.data(), key.bytes.size()) != 1 ||
      SSL_SESSION_set_cipher(session.get(), cipher) != 1 ||
      SSL_SESSION_set_protocol_version(session.get(), TLS1_3_VERSION) != 1) {
    return nullptr;
  }
  return session.release();
}

}  // namespace

int TlsContext::on_psk_use(SSL* ssl, const EVP_MD* digest, const unsigned char** id,
                           std::size_t* id_size, SSL_SESSION** session) {
  *session = nullptr;
  // After a HelloRetryRequest for a cipher with another hash the key cannot be used.
  if (digest != nullptr && !EVP_MD_is_a(digest, "SHA2-256")) return 1;
  const auto* self = static_cast<const TlsContext*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
  *session = session_of(ssl, self->psk_);
  *id = reinterpret_cast<const unsigned char*>(self->psk_.id.data());
  *id_size = self->psk_.id.size();
  return *session != nullptr ? 1 : 0;
}

int TlsContext::on_psk_find(SSL* ssl, const unsigned char* id, std::size_t id_size,
                            SSL_SESSION** session) {
  *session = nullptr;
  const auto* self = static_cast<const TlsContext*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
  // An id that is not ours: OpenSSL goes on without a key, and ends for want of a certificate.
  if (id_size != self->psk_.id.size() || std::memcmp(id, self->psk_.id.data(), id_size) != 0) {
    return 1;
  }
  *session = session_of(ssl, self->psk_);
  return *session != nullptr ? 1 : 0;
}

Status TlsContext::check_peer_name(SSL* ssl) const {
  X509_VERIFY_PARAM* const param = SSL_get0_param(ssl);
  // Names stand in subject alternative names only, RFC 6125, 6.4.4 and RFC 9525.
  X509_VERIFY_PARAM_set_hostflags(
      param, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  const bool address = is_ip_address(peer_name_);
  const bool set = address ? X509_VERIFY_PARAM_set1_ip_asc(param, peer_name_.c_str()) == 1
                           : X509_VERIFY_PARAM_set1_host(param, peer_name_.c_str(), 0) == 1 &&
                                 SSL_set_tlsext_host_name(ssl, peer_name_.c_str()) == 1;
  if (set) return {};
  return misused("'" + peer_name_ + "' is no name that a certificate can have",
                 "give a DNS name or an IP address as --tls-name");
}

Result<SslPtr> TlsContext::new_connection(std::string_view session) const {
  ERR_clear_error();
  SslPtr ssl(SSL_new(context_.get()));
  if (ssl == nullptr) {
    return make_error(ErrorCode::kNoMemory, "cannot begin TLS: " + last_openssl_reason());
  }
  if (role_ == TlsRole::kConnect) {
    if (!uses_psk()) MIGRATE_TRY(check_peer_name(ssl.get()));
    const std::string offered = protocol_list(session);
    // This one returns 0 for success.
    if (SSL_set_alpn_protos(ssl.get(), reinterpret_cast<const unsigned char*>(offered.data()),
                            static_cast<unsigned int>(offered.size())) != 0) {
      return make_error(ErrorCode::kNoMemory, "cannot begin TLS: " + last_openssl_reason());
    }
    SSL_set_connect_state(ssl.get());
  } else {
    SSL_set_accept_state(ssl.get());
  }
  return ssl;
}

}  // namespace migrate
