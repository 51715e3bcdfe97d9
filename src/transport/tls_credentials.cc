#include "transport/tls_credentials.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <memory>

#include "base/fd.hpp"
#include "transport/tls_context.hpp"
#include "transport/tls_errors.hpp"

namespace migrate {
namespace {

using BioPtr = std::unique_ptr<BIO, OpenSslDeleter<&BIO_free_all>>;
using X509Ptr = std::unique_ptr<X509, OpenSslDeleter<&X509_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, OpenSslDeleter<&EVP_PKEY_free>>;
using ExtensionPtr = std::unique_ptr<X509_EXTENSION, OpenSslDeleter<&X509_EXTENSION_free>>;

// 128 bits would do; this is what TLS's own secrets have.
constexpr std::size_t kPskBytes = 32;
constexpr mode_t kPrivate = S_IRUSR | S_IWUSR;
constexpr mode_t kPublic = kPrivate | S_IRGRP | S_IROTH;

Error openssl_failed(const std::string& what) {
  return make_error(ErrorCode::kInternal, "cannot " + what + ": " + last_openssl_reason());
}

Status write_new_file(const std::string& file, std::string_view text, mode_t mode) {
  const Fd fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!fd) {
    return make_errno_error(ErrorCode::kInvalidArgument, errno, "cannot create " + file)
        .advise(errno == EEXIST ? "choose another name, or remove the file if nothing needs it"
                                : "choose a folder that exists and that you may write to");
  }
  if (::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
      ::fsync(fd.get()) != 0) {
    const int sys_errno = errno;
    ::unlink(file.c_str());
    return make_errno_error(ErrorCode::kIo, sys_errno, "cannot write " + file);
  }
  return {};
}

std::string_view text_in(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return {data, static_cast<std::size_t>(size)};
}

Status write_pair(const CertificateFiles& files, X509* certificate, EVP_PKEY* key) {
  const BioPtr key_text(BIO_new(BIO_s_secmem()));
  const BioPtr certificate_text(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_PrivateKey(key_text.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1 ||
      PEM_write_bio_X509(certificate_text.get(), certificate) != 1) {
    return openssl_failed("encode a certificate");
  }
  MIGRATE_TRY(write_new_file(files.key, text_in(key_text.get()), kPrivate));
  Status written = write_new_file(files.certificate, text_in(certificate_text.get()), kPublic);
  if (!written) ::unlink(files.key.c_str());
  return written;
}

bool add_extension(X509* certificate, X509* issuer, int id, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, id, value));
  return extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1;
}

/// "DNS:a.example,IP:10.0.0.1". Names go into a list with a grammar, so only what names consist of
/// is let in.
Result<std::string> alternative_names(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) {
    in6_addr address{};
    const bool is_address = ::inet_pton(AF_INET, name.c_str(), &address) == 1 ||
                            ::inet_pton(AF_INET6, name.c_str(), &address) == 1;
    const bool is_name = !name.empty() && name.size() <= 253 &&
                         name.find_first_not_of(
                             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") ==
                             std::string::npos;
    if (!is_address && !is_name) {
      return make_error(ErrorCode::kInvalidArgument,
                        "'" + name + "' is neither a DNS name nor an IP address")
          .advise("give the names and addresses by which other hosts reach this one");
    }
    list += std::string(list.empty() ? "" : ",") + (is_address ? "IP:" : "DNS:") + name;
  }
  return list;
}

/// All but extensions and signature.
Result<X509Ptr> new_certificate(const CertificateTerms& terms, EVP_PKEY* key) {
  X509Ptr certificate(X509_new());
  X509* const raw = certificate.get();
  std::array<unsigned char, 16> serial{};
  const std::string& subject = terms.subject;
  const bool made =
      raw != nullptr && RAND_bytes(serial.data(), serial.size()) == 1 &&
      X509_set_version(raw, X509_VERSION_3) == 1 && X509_set_pubkey(raw, key) == 1 &&
      X509_gmtime_adj(X509_getm_notBefore(raw), static_cast<long>(terms.begins.count())) !=
          nullptr &&
      X509_gmtime_adj(X509_getm_notAfter(raw), static_cast<long>(terms.ends.count())) != nullptr &&
      X509_NAME_add_entry_by_txt(X509_get_subject_name(raw), "CN", MBSTRING_UTF8,
                                 reinterpret_cast<const unsigned char*>(subject.data()),
                                 static_cast<int>(subject.size()), -1, 0) == 1;
  if (!made) return openssl_failed("make a certificate");
  serial[0] &= 0x7f;  // RFC 5280, 4.1.2.2: positive.
  BIGNUM* const number = BN_bin2bn(serial.data(), serial.size(), nullptr);
  const bool numbered =
      number != nullptr && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(raw)) != nullptr;
  BN_free(number);
  if (!numbered) return openssl_failed("number a certificate");
  return certificate;
}

Result<KeyPtr> new_key() {
  KeyPtr key(EVP_EC_gen("P-256"));
  if (key == nullptr) return openssl_failed("make a private key");
  return key;
}

Result<X509Ptr> load_certificate(const std::string& file) {
  const BioPtr bio(BIO_new_file(file.c_str(), "r"));
  X509Ptr certificate(bio ? PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr) : nullptr);
  if (certificate != nullptr) return certificate;
  return make_error(ErrorCode::kInvalidArgument, "cannot read the authority's certificate " + file +
                                                     ": " + last_openssl_reason())
      .advise("make an authority first: `migrate keygen --ca`");
}

Result<KeyPtr> load_key(const std::string& file) {
  const BioPtr bio(BIO_new_file(file.c_str(), "r"));
  const auto no_passphrase = [](char*, int, int, void*) { return 0; };
  KeyPtr key(bio ? PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr) : nullptr);
  if (key != nullptr) return key;
  return make_error(ErrorCode::kInvalidArgument,
                    "cannot read the authority's key " + file + ": " + last_openssl_reason())
      .advise("make the certificate where the authority's key is");
}

}  // namespace

Status write_psk(const std::string& file) {
  std::array<unsigned char, kPskBytes> key{};
  if (RAND_priv_bytes(key.data(), key.size()) != 1) return openssl_failed("make a random key");
  std::string text;
  constexpr char kDigits[] = "0123456789abcdef";
  for (const unsigned char byte : key) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return write_new_file(file, text + "\n", kPrivate);
}

Status write_authority(const CertificateFiles& files, const CertificateTerms& terms) {
  ERR_clear_error();
  MIGRATE_ASSIGN(const KeyPtr key, new_key());
  MIGRATE_ASSIGN(const X509Ptr certificate, new_certificate(terms, key.get()));
  X509* const raw = certificate.get();
  const bool made = X509_set_issuer_name(raw, X509_get_subject_name(raw)) == 1 &&
                    add_extension(raw, raw, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
                    add_extension(raw, raw, NID_key_usage, "critical,keyCertSign,cRLSign") &&
                    add_extension(raw, raw, NID_subject_key_identifier, "hash") &&
                    X509_sign(raw, key.get(), EVP_sha256()) > 0;
  if (!made) return openssl_failed("make an authority");
  return write_pair(files, raw, key.get());
}

Status write_certificate(const CertificateFiles& files, const CertificateFiles& authority,
                         const CertificateTerms& terms) {
  ERR_clear_error();
  MIGRATE_ASSIGN(const std::string names, alternative_names(terms.names));
  MIGRATE_ASSIGN(const X509Ptr issuer, load_certificate(authority.certificate));
  MIGRATE_ASSIGN(const KeyPtr issuer_key, load_key(authority.key));
  if (X509_check_private_key(issuer.get(), issuer_key.get()) != 1) {
    ERR_clear_error();
    return make_error(ErrorCode::kInvalidArgument,
                      authority.key + " is not the key of " + authority.certificate)
        .advise("give the two files that `migrate keygen --ca` made together");
  }
  MIGRATE_ASSIGN(const KeyPtr key, new_key());
  MIGRATE_ASSIGN(const X509Ptr certificate, new_certificate(terms, key.get()));
  X509* const raw = certificate.get();
  const bool made =
      X509_set_issuer_name(raw, X509_get_subject_name(issuer.get())) == 1 &&
      add_extension(raw, issuer.get(), NID_basic_constraints, "critical,CA:FALSE") &&
      add_extension(raw, issuer.get(), NID_key_usage, "critical,digitalSignature") &&
      // A host sends guests and receives them.
      add_extension(raw, issuer.get(), NID_ext_key_usage, "serverAuth,clientAuth") &&
      add_extension(raw, issuer.get(), NID_authority_key_identifier, "keyid") &&
      (names.empty() || add_extension(raw, issuer.get(), NID_subject_alt_name, names.c_str())) &&
      X509_sign(raw, issuer_key.get(), EVP_sha256()) > 0;
  if (!made) return openssl_failed("make a certificate");
  return write_pair(files, raw, key.get());
}

}  // namespace migrate
