#include "transport/tls_records.hpp"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <string>

#include "transport/tls_errors.hpp"

namespace migrate {
namespace {

using KdfPtr = std::unique_ptr<EVP_KDF, OpenSslDeleter<&EVP_KDF_free>>;
using KdfContextPtr = std::unique_ptr<EVP_KDF_CTX, OpenSslDeleter<&EVP_KDF_CTX_free>>;

// Of all ciphers of TLS 1.3 that OpenSSL has.
constexpr std::size_t kKeyBytesMax = 32;
constexpr std::size_t kNonceBytes = 12;

Error cannot(const char* what) {
  return make_error(ErrorCode::kInternal,
                    std::string("OpenSSL cannot ") + what + ": " + last_openssl_reason());
}

unsigned char* raw(std::byte* bytes) { return reinterpret_cast<unsigned char*>(bytes); }
const unsigned char* raw(const std::byte* bytes) {
  return reinterpret_cast<const unsigned char*>(bytes);
}

std::size_t bytes_in(std::span<const iovec> parts) {
  std::size_t bytes = 0;
  for (const iovec& part : parts) bytes += part.iov_len;
  return bytes;
}

}  // namespace

Status TlsKeys::begin(const SSL* ssl, const TlsSecret& secret, Use use) {
  use_ = use;
  const SSL_CIPHER* const chosen = SSL_get_current_cipher(ssl);
  cipher_ = chosen != nullptr ? EVP_get_cipherbynid(SSL_CIPHER_get_cipher_nid(chosen)) : nullptr;
  digest_ = chosen != nullptr ? SSL_CIPHER_get_handshake_digest(chosen) : nullptr;
  if (cipher_ == nullptr || digest_ == nullptr ||
      secret.size != static_cast<std::size_t>(EVP_MD_get_size(digest_))) {
    return cannot("use the connection's cipher");
  }
  secret_ = secret;
  context_.reset(EVP_CIPHER_CTX_new());
  return use_secret();
}

/// HKDF-Expand-Label(secret, label, "", size), RFC 8446, 7.1.
Status TlsKeys::expand(const char* label, std::span<unsigned char> out) const {
  const KdfPtr kdf(EVP_KDF_fetch(nullptr, "TLS13-KDF", nullptr));
  const KdfContextPtr context(kdf != nullptr ? EVP_KDF_CTX_new(kdf.get()) : nullptr);
  int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
  std::string name = label;
  std::string prefix = "tls13 ";
  TlsSecret secret = secret_;
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST,
                                       const_cast<char*>(EVP_MD_get0_name(digest_)), 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, secret.bytes.data(), secret.size),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PREFIX, prefix.data(), prefix.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_LABEL, name.data(), name.size()),
      OSSL_PARAM_construct_end()};
  if (context == nullptr ||
      EVP_KDF_derive(context.get(), out.data(), out.size(), parameters) != 1) {
    return cannot("derive keys");
  }
  return {};
}

Status TlsKeys::use_secret() {
  std::array<unsigned char, kKeyBytesMax> key{};
  MIGRATE_TRY(expand("key", std::span(key).first(EVP_CIPHER_get_key_length(cipher_))));
  MIGRATE_TRY(expand("iv", iv_));
  sequence_ = 0;
  const bool ready =
      context_ != nullptr && EVP_CipherInit_ex(context_.get(), cipher_, nullptr, key.data(),
                                               nullptr, static_cast<int>(use_)) == 1;
  OPENSSL_cleanse(key.data(), key.size());
  return ready ? Status() : cannot("use keys");
}

Status TlsKeys::renew() {
  TlsSecret later;
  later.size = secret_.size;
  MIGRATE_TRY(expand("traffic upd", std::span(later.bytes).first(later.size)));
  secret_ = later;
  return use_secret();
}

/// RFC 8446, 5.3: the sequence number, big-endian, on the iv's last bytes.
std::array<unsigned char, kNonceBytes> TlsKeys::nonce() const {
  auto nonce = iv_;
  for (std::size_t i = 0; i < sizeof sequence_; ++i) {
    nonce[kNonceBytes - 1 - i] ^= static_cast<unsigned char>(sequence_ >> (8 * i));
  }
  return nonce;
}

Result<std::size_t> TlsKeys::seal(TlsContent type, std::span<const iovec> parts,
                                  std::byte* record) {
  const std::size_t sealed = bytes_in(parts) + 1 + kTlsTagBytes;
  MIGRATE_CHECK(sealed <= kTlsRecordMax - kTlsHeaderBytes);
  unsigned char* const out = raw(record);
  out[0] = static_cast<unsigned char>(TlsContent::kData);
  out[1] = out[2] = 3;
  out[3] = static_cast<unsigned char>(sealed >> 8);
  out[4] = static_cast<unsigned char>(sealed);
  EVP_CIPHER_CTX* const cipher = context_.get();
  int count = 0;
  bool good = EVP_EncryptInit_ex(cipher, nullptr, nullptr, nullptr, nonce().data()) == 1 &&
              EVP_EncryptUpdate(cipher, nullptr, &count, out, kTlsHeaderBytes) == 1;
  unsigned char* at = out + kTlsHeaderBytes;
  for (const iovec& part : parts) {
    good = good &&
           EVP_EncryptUpdate(cipher, at, &count, static_cast<const unsigned char*>(part.iov_base),
                             static_cast<int>(part.iov_len)) == 1;
    at += part.iov_len;
  }
  const auto inner = static_cast<unsigned char>(type);
  good = good && EVP_EncryptUpdate(cipher, at, &count, &inner, 1) == 1 &&
         EVP_EncryptFinal_ex(cipher, at + 1, &count) == 1 &&
         EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_GET_TAG, kTlsTagBytes, at + 1) == 1;
  if (!good) return cannot("encrypt");
  ++sequence_;
  return kTlsHeaderBytes + sealed;
}

Result<bool> TlsKeys::open(std::span<const std::byte> record, std::span<const iovec> parts,
                           std::byte& last) {
  const std::size_t inner = record.size() - kTlsHeaderBytes - kTlsTagBytes;
  MIGRATE_CHECK(bytes_in(parts) + 1 == inner);
  const unsigned char* at = raw(record.data()) + kTlsHeaderBytes;
  EVP_CIPHER_CTX* const cipher = context_.get();
  int count = 0;
  // The call takes the tag as one that it might write.
  auto* const tag = const_cast<unsigned char*>(at + inner);
  bool good = EVP_DecryptInit_ex(cipher, nullptr, nullptr, nullptr, nonce().data()) == 1 &&
              EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_SET_TAG, kTlsTagBytes, tag) == 1 &&
              EVP_DecryptUpdate(cipher, nullptr, &count, raw(record.data()), kTlsHeaderBytes) == 1;
  for (const iovec& part : parts) {
    good = good && EVP_DecryptUpdate(cipher, static_cast<unsigned char*>(part.iov_base), &count, at,
                                     static_cast<int>(part.iov_len)) == 1;
    at += part.iov_len;
  }
  good = good && EVP_DecryptUpdate(cipher, raw(&last), &count, at, 1) == 1;
  if (!good) return cannot("decrypt");
  unsigned char none = 0;
  const bool authentic = EVP_DecryptFinal_ex(cipher, &none, &count) == 1;
  if (!authentic) ERR_clear_error();
  return authentic;
}

}  // namespace migrate
