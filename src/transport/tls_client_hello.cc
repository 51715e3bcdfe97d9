#include "transport/tls_client_hello.hpp"

#include <openssl/err.h>

#include <memory>
#include <string_view>

#include "transport/tls_context.hpp"

namespace migrate {
namespace {

// RFC 8446, 5.1.
constexpr std::byte kHandshakeRecord{22};

/// The session among the protocols of an ALPN extension, RFC 7301, 3.1: a list after its length.
std::string session_among(std::string_view list) {
  if (list.size() < 2) return {};
  list.remove_prefix(2);
  while (!list.empty()) {
    const auto size = static_cast<unsigned char>(list.front());
    const std::string_view name = list.substr(1, size);
    if (name.size() != size) return {};
    if (name.substr(0, kTlsSessionPrefix.size()) == kTlsSessionPrefix) {
      return std::string(name.substr(kTlsSessionPrefix.size()));
    }
    list.remove_prefix(1u + size);
  }
  return {};
}

/// OpenSSL has parsed a ClientHello and asks whether to go on: never.
int on_client_hello(SSL* ssl, int* /*alert*/, void* /*argument*/) {
  auto* const hello = static_cast<TlsClientHello*>(SSL_get_app_data(ssl));
  hello->kind = TlsClientHello::Kind::kWhole;
  hello->session = session_in_client_hello(ssl);
  return SSL_CLIENT_HELLO_RETRY;
}

SSL_CTX* parsing_context() {
  static const SslContextPtr context = [] {
    SslContextPtr made(SSL_CTX_new(TLS_server_method()));
    if (made != nullptr) SSL_CTX_set_client_hello_cb(made.get(), on_client_hello, nullptr);
    return made;
  }();
  return context.get();
}

}  // namespace

std::string session_in_client_hello(SSL* ssl) {
  const unsigned char* data = nullptr;
  std::size_t size = 0;
  if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &data,
                                &size) != 1) {
    return {};
  }
  return session_among({reinterpret_cast<const char*>(data), size});
}

TlsClientHello read_client_hello(std::span<const std::byte> bytes) {
  using Kind = TlsClientHello::Kind;
  TlsClientHello hello;
  if (bytes.empty()) return hello;
  if (bytes[0] != kHandshakeRecord) {
    hello.kind = Kind::kNotTls;
    return hello;
  }
  const SslPtr ssl(parsing_context() != nullptr ? SSL_new(parsing_context()) : nullptr);
  BIO* const in = BIO_new_mem_buf(bytes.data(), static_cast<int>(bytes.size()));
  BIO* const out = BIO_new(BIO_s_null());
  if (ssl == nullptr || in == nullptr || out == nullptr) {
    BIO_free(in);
    BIO_free(out);
    return hello;
  }
  // More may come.
  BIO_set_mem_eof_return(in, -1);
  SSL_set_bio(ssl.get(), in, out);
  SSL_set_app_data(ssl.get(), &hello);
  SSL_set_accept_state(ssl.get());
  ERR_clear_error();
  const int result = SSL_do_handshake(ssl.get());
  const bool waits = SSL_get_error(ssl.get(), result) == SSL_ERROR_WANT_READ;
  ERR_clear_error();
  // What OpenSSL cannot parse it also refuses in a handshake, with an alert.
  if (!waits || bytes.size() >= kClientHelloMax) hello.kind = Kind::kWhole;
  return hello;
}

}  // namespace migrate
