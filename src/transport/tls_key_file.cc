#include "transport/tls_key_file.hpp"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/fd.hpp"

namespace migrate {
namespace {

constexpr std::string_view kSpace = " \t\r\n";
// The longest key in hexadecimal, and room for white space.
constexpr std::size_t kFileBytesMax = 4 * kPskBytesMax;

Error no_key(const std::string& why) {
  return make_error(ErrorCode::kInvalidArgument, why)
      .advise("make a key with `migrate keygen`, and copy its file to both hosts");
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool decode_hex(std::string_view text, std::vector<unsigned char>& bytes) {
  if (text.size() % 2 != 0) return false;
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = hex_digit(text[i]);
    const int low = hex_digit(text[i + 1]);
    if (high < 0 || low < 0) return false;
    bytes.push_back(static_cast<unsigned char>(high * 16 + low));
  }
  return true;
}

bool decode_base64(std::string_view text, std::vector<unsigned char>& bytes) {
  // OpenSSL takes padding for digits wherever it stands, and counts it too.
  const std::size_t digits = std::min(text.size(), text.find('='));
  const std::size_t padding = text.size() - digits;
  if (text.size() % 4 != 0 || padding > 2) return false;
  if (text.find_first_not_of('=', digits) != std::string_view::npos) return false;
  bytes.resize(text.size() / 4 * 3);
  const int size =
      EVP_DecodeBlock(bytes.data(), reinterpret_cast<const unsigned char*>(text.data()),
                      static_cast<int>(text.size()));
  if (size < 0) return false;
  bytes.resize(static_cast<std::size_t>(size) - padding);
  return true;
}

/// The begin of a hash of the key: 64 bits tell an operator's keys apart.
std::string id_of(const std::vector<unsigned char>& key) {
  constexpr std::string_view kLabel = "migrate psk id";
  std::vector<unsigned char> input(kLabel.begin(), kLabel.end());
  input.insert(input.end(), key.begin(), key.end());
  std::array<unsigned char, 32> hash{};
  const bool hashed =
      EVP_Digest(input.data(), input.size(), hash.data(), nullptr, EVP_sha256(), nullptr) == 1;
  OPENSSL_cleanse(input.data(), input.size());
  MIGRATE_CHECK(hashed);
  constexpr char kDigits[] = "0123456789abcdef";
  std::string id;
  for (std::size_t i = 0; i < 8; ++i) {
    id += kDigits[hash[i] >> 4];
    id += kDigits[hash[i] & 15];
  }
  return id;
}

}  // namespace

PreSharedKey::~PreSharedKey() { OPENSSL_cleanse(bytes.data(), bytes.size()); }

Result<PreSharedKey> parse_psk(std::string_view text) {
  const auto begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return no_key("it is empty");
  text = text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
  PreSharedKey key;
  key.bytes.reserve(text.size());
  if (!decode_hex(text, key.bytes)) {
    key.bytes.clear();
    if (!decode_base64(text, key.bytes)) return no_key("it is neither hexadecimal nor base64");
  }
  if (key.bytes.size() < kPskBytesMin || key.bytes.size() > kPskBytesMax) {
    return no_key("it has " + std::to_string(key.bytes.size()) + " bytes, not " +
                  std::to_string(kPskBytesMin) + " to " + std::to_string(kPskBytesMax));
  }
  key.id = id_of(key.bytes);
  return key;
}

Result<PreSharedKey> read_psk_file(const std::string& file) {
  const Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, kFileBytesMax + 1> text;
  const ssize_t got = fd ? ::read(fd.get(), text.data(), text.size()) : -1;
  if (got < 0) {
    return make_errno_error(ErrorCode::kInvalidArgument, errno, "cannot read the key " + file)
        .advise("give a file that exists and that you may read");
  }
  const auto size = static_cast<std::size_t>(got);
  auto key = size <= kFileBytesMax ? parse_psk(std::string_view(text.data(), size))
                                   : Result<PreSharedKey>(no_key("it is too long"));
  OPENSSL_cleanse(text.data(), text.size());
  if (!key) key.error().message = file + " is no pre-shared key: " + key.error().message;
  return key;
}

}  // namespace migrate
