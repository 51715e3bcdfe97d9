// A pre-shared key that lasts as long as what is measured with it.
#pragma once

#include <memory>
#include <string>

#include "migrate/tls.hpp"

namespace migrate::bench {

class TlsKeys {
 public:
  TlsKeys();
  ~TlsKeys();
  TlsKeys(const TlsKeys&) = delete;
  TlsKeys& operator=(const TlsKeys&) = delete;

  [[nodiscard]] std::shared_ptr<TlsContext> context(TlsRole role) const;

 private:
  std::string folder_;
};

}  // namespace migrate::bench
