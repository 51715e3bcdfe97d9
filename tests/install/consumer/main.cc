// Uses the library as an author of a VMM would: public headers, no other include path.
#include <migrate/kvm.hpp>
#include <migrate/migration.hpp>

#include <cstdio>

int main() {
  migrate::OutgoingOptions options;
  if (!migrate::set_option(options, "max-downtime", "20ms")) return 1;
  auto connector = migrate::make_tcp_connector("127.0.0.1", "1");
  // A KvmVm without descriptors is refused with words, not with a crash.
  const auto model = migrate::capture_cpu_model(migrate::KvmVm{});
  if (model) return 1;
  std::printf("%s\n", model.error().to_text().c_str());
  return connector->peer().empty() ? 1 : 0;
}
