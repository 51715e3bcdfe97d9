#include "bench/tls_keys.hpp"

#include <stdlib.h>  // NOLINT: mkdtemp

#include <filesystem>

#include "bench/measuring.hpp"
#include "transport/tls_credentials.hpp"

namespace migrate::bench {

TlsKeys::TlsKeys() : folder_("/tmp/migrate-bench.XXXXXX") {
  if (::mkdtemp(folder_.data()) == nullptr) give_up("cannot make the folder " + folder_);
  must(write_psk(folder_ + "/psk"));
}

TlsKeys::~TlsKeys() {
  std::error_code failure;
  std::filesystem::remove_all(folder_, failure);
}

std::shared_ptr<TlsContext> TlsKeys::context(TlsRole role) const {
  TlsOptions options;
  options.psk_file = folder_ + "/psk";
  return must(make_tls_context(role, options));
}

}  // namespace migrate::bench
