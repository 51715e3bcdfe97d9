// What one core can seal and open of TLS 1.3's records, with nothing else to do.
#pragma once

#include <vector>

#include "bench/measuring.hpp"

namespace migrate::bench {

struct AeadSpeed {
  const char* name;  ///< As OpenSSL knows the cipher.
  Samples seal;      ///< Seconds a byte.
  Samples open;
};

/// Those that TLS 1.3 has; the first is the one that migrate prefers.
[[nodiscard]] std::vector<AeadSpeed> tls_ciphers();

/// Seals and opens records of 16 KiB that stay in the first-level cache; adds to `speed` if `keep`.
void measure_aead(AeadSpeed& speed, bool keep);

}  // namespace migrate::bench
