// TLS 1.3's records after the handshake, RFC 8446, 5 and 7: sealed from where the bytes lie and
// opened to where they belong.
//
// OpenSSL's own way copies each byte to a buffer of its own and from it, on both sides, and has one
// state for both directions. Its handshake is used as it is, and its ciphers; what is here is the
// framing between them.
#pragma once

#include <openssl/ssl.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "migrate/result.hpp"
#include "transport/tls_context.hpp"

namespace migrate {

// The most that a record carries, RFC 8446, 5.1.
inline constexpr std::size_t kTlsContentMax = 16384;
inline constexpr std::size_t kTlsHeaderBytes = 5;
inline constexpr std::size_t kTlsTagBytes = 16;
// Header, type and tag, RFC 8446, 5.2.
inline constexpr std::size_t kTlsRecordOverhead = kTlsHeaderBytes + 1 + kTlsTagBytes;
inline constexpr std::size_t kTlsRecordMax = kTlsContentMax + kTlsRecordOverhead;

enum class TlsContent : std::uint8_t { kAlert = 21, kHandshake = 22, kData = 23 };

/// The keys of one direction. Of one thread at a time.
class TlsKeys {
 public:
  enum class Use : std::uint8_t { kOpen = 0, kSeal = 1 };
  /// Of a connection whose handshake is done, from the direction's first secret.
  Status begin(const SSL* ssl, const TlsSecret& secret, Use use);
  /// The next generation, RFC 8446, 7.2.
  Status renew();

  /// One record of `parts`, at most kTlsContentMax bytes, written to `record`; its size.
  Result<std::size_t> seal(TlsContent type, std::span<const iovec> parts, std::byte* record);
  /// The record's inner plaintext: all but its last byte to `parts`, which have just that room, and
  /// the last byte. False where the record is not the peer's; `parts` hold nonsense then. The same
  /// record may be opened again until next().
  Result<bool> open(std::span<const std::byte> record, std::span<const iovec> parts,
                    std::byte& last);
  void next() { ++sequence_; }

 private:
  Status use_secret();
  Status expand(const char* label, std::span<unsigned char> out) const;
  [[nodiscard]] std::array<unsigned char, 12> nonce() const;

  const EVP_CIPHER* cipher_ = nullptr;
  const EVP_MD* digest_ = nullptr;
  TlsSecret secret_;
  std::array<unsigned char, 12> iv_{};
  std::uint64_t sequence_ = 0;
  Use use_ = Use::kOpen;
  std::unique_ptr<EVP_CIPHER_CTX, OpenSslDeleter<&EVP_CIPHER_CTX_free>> context_;
};

}  // namespace migrate
