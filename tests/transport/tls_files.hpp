// Certificates and keys for tests, made where they are needed.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "migrate/tls.hpp"
#include "transport/tls_credentials.hpp"

namespace migrate::test {

inline constexpr std::chrono::hours kHour{1};

/// A folder of its own, removed with all that is in it.
class TlsFiles {
 public:
  TlsFiles() {
    std::string name = testing::TempDir() + "/tls-XXXXXX";
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  ~TlsFiles() { std::filesystem::remove_all(folder_); }
  TlsFiles(const TlsFiles&) = delete;
  TlsFiles& operator=(const TlsFiles&) = delete;

  [[nodiscard]] std::string path(const std::string& name) const { return folder_ / name; }

  CertificateFiles authority(const std::string& name) {
    const CertificateFiles files = pair(name);
    if (!std::filesystem::exists(files.key)) {
      const Status made = write_authority(files, {name, {}, -kHour, kHour});
      EXPECT_TRUE(made) << made.error().to_text();
    }
    return files;
  }

  /// A host's certificate, and what it gives to trust only those of the same authority.
  TlsOptions host(const std::string& name, const std::string& ca = "ca",
                  std::vector<std::string> names = {"127.0.0.1", "localhost"},
                  std::chrono::seconds begins = -kHour, std::chrono::seconds ends = kHour) {
    const CertificateFiles files = pair(name);
    const CertificateFiles issuer = authority(ca);
    const Status made = write_certificate(files, issuer, {name, std::move(names), begins, ends});
    EXPECT_TRUE(made) << made.error().to_text();
    return {files.certificate, files.key, issuer.certificate, "", "127.0.0.1"};
  }

  TlsOptions psk(const std::string& name) {
    if (!std::filesystem::exists(path(name))) {
      const Status made = write_psk(path(name));
      EXPECT_TRUE(made) << made.error().to_text();
    }
    TlsOptions options;
    options.psk_file = path(name);
    return options;
  }

 private:
  [[nodiscard]] CertificateFiles pair(const std::string& name) const {
    return {path(name + ".pem"), path(name + ".key")};
  }
  std::filesystem::path folder_;
};

}  // namespace migrate::test
