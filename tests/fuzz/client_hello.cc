// A stranger's first bytes at a TLS listener: never a read beyond them, and a session only where
// they name it. What has come whole stays so when more follows.
#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "tests/fuzz/fuzz.hpp"
#include "transport/tls_client_hello.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using migrate::TlsClientHello;
  // As much as a listener looks at.
  const auto bytes = migrate::fuzz::input(data, std::min(size, migrate::kClientHelloMax));
  const TlsClientHello whole = migrate::read_client_hello(bytes);
  const std::string_view said(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!whole.session.empty() && said.find("migrate/1 session=") == said.npos) {
    // Spread over records there are headers in between; else the name stands there as it is given.
    const bool spread = std::count(said.begin(), said.end(), '\x16') > 1;
    if (!spread) std::abort();
  }
  const TlsClientHello half = migrate::read_client_hello(bytes.first(bytes.size() / 2));
  if (half.kind == TlsClientHello::Kind::kNotTls && whole.kind != half.kind) std::abort();
  if (!half.session.empty() && half.session != whole.session) std::abort();
  return 0;
}
