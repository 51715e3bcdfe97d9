#include "bench/aead_speed.hpp"

#include <openssl/evp.h>

#include <array>
#include <chrono>
#include <memory>
#include <span>

namespace migrate::bench {
namespace {

constexpr int kRecordBytes = 16384;
constexpr int kRecords = 8192;
constexpr int kHeaderBytes = 5;
constexpr int kTagBytes = 16;

struct CipherDeleter {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};

struct Record {
  std::array<unsigned char, kHeaderBytes> header{23, 3, 3, 0x40, 17};
  std::array<unsigned char, 12> nonce{};
  std::array<unsigned char, std::size_t{kRecordBytes}> plain{};
  std::array<unsigned char, std::size_t{kRecordBytes}> sealed{};
  std::array<unsigned char, kTagBytes> tag{};
};

void require(bool good) {
  if (!good) give_up("OpenSSL cannot seal or open a record");
}

/// Seconds a byte for `kRecords` of what `step` does to one.
template <typename Step>
double seconds_a_byte(Step step) {
  const double before = cpu_seconds();
  for (int i = 0; i < kRecords; ++i) step();
  return (cpu_seconds() - before) / (double{kRecordBytes} * kRecords);
}

}  // namespace

std::vector<AeadSpeed> tls_ciphers() {
  return {{"AES-128-GCM", {}, {}}, {"AES-256-GCM", {}, {}}, {"ChaCha20-Poly1305", {}, {}}};
}

void measure_aead(AeadSpeed& speed, bool keep) {
  const std::unique_ptr<EVP_CIPHER_CTX, CipherDeleter> sealing(EVP_CIPHER_CTX_new());
  const std::unique_ptr<EVP_CIPHER_CTX, CipherDeleter> opening(EVP_CIPHER_CTX_new());
  const EVP_CIPHER* const cipher = EVP_get_cipherbyname(speed.name);
  const std::array<unsigned char, 32> key{1, 2, 3};
  require(cipher != nullptr);
  require(EVP_EncryptInit_ex(sealing.get(), cipher, nullptr, key.data(), nullptr) == 1);
  require(EVP_DecryptInit_ex(opening.get(), cipher, nullptr, key.data(), nullptr) == 1);
  const auto record = std::make_unique<Record>();
  Record& r = *record;
  int out = 0;
  const double seal = seconds_a_byte([&] {
    EVP_CIPHER_CTX* const ctx = sealing.get();
    require(EVP_EncryptInit_ex(ctx, nullptr, nullptr, nullptr, r.nonce.data()) == 1 &&
            EVP_EncryptUpdate(ctx, nullptr, &out, r.header.data(), kHeaderBytes) == 1 &&
            EVP_EncryptUpdate(ctx, r.sealed.data(), &out, r.plain.data(), kRecordBytes) == 1 &&
            EVP_EncryptFinal_ex(ctx, r.sealed.data() + out, &out) == 1 &&
            EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, kTagBytes, r.tag.data()) == 1);
  });
  const double open = seconds_a_byte([&] {
    EVP_CIPHER_CTX* const ctx = opening.get();
    require(EVP_DecryptInit_ex(ctx, nullptr, nullptr, nullptr, r.nonce.data()) == 1 &&
            EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, kTagBytes, r.tag.data()) == 1 &&
            EVP_DecryptUpdate(ctx, nullptr, &out, r.header.data(), kHeaderBytes) == 1 &&
            EVP_DecryptUpdate(ctx, r.plain.data(), &out, r.sealed.data(), kRecordBytes) == 1 &&
            EVP_DecryptFinal_ex(ctx, r.plain.data() + out, &out) == 1);
  });
  if (!keep) return;
  speed.seal.add(seal);
  speed.open.add(open);
}

}  // namespace migrate::bench
