// Making what TLS needs: pre-shared keys, a small authority, certificates of hosts.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "migrate/result.hpp"

namespace migrate {

/// A certificate and its private key, both PEM.
struct CertificateFiles {
  std::string certificate;
  std::string key;
};

struct CertificateTerms {
  std::string subject;             ///< Common name, for people.
  std::vector<std::string> names;  ///< DNS names and IP addresses that a host goes by.
  std::chrono::seconds begins{0};  ///< From now; negative: earlier.
  std::chrono::seconds ends{0};    ///< From now.
};

// Files are created with mode 0600, certificates 0644; one that is there is never replaced:
// kInvalidArgument.

/// A new random key of 32 bytes in hexadecimal.
[[nodiscard]] Status write_psk(const std::string& file);
/// A new authority: it signs certificates of hosts and nothing else.
[[nodiscard]] Status write_authority(const CertificateFiles& files, const CertificateTerms& terms);
/// A new certificate of a host, for both ends of a connection.
[[nodiscard]] Status write_certificate(const CertificateFiles& files,
                                       const CertificateFiles& authority,
                                       const CertificateTerms& terms);

}  // namespace migrate
