#include "container_trace.hpp"

#include <csignal>
#include <memory>
#include <utility>

#include "base/guarded.hpp"
#include "container_migration.hpp"
#include "migrate/containers.hpp"
#include "migrate/options.hpp"
#include "runtime_dir.hpp"
#include "signals.hpp"

namespace migrate::tool {

Result<DirtyTrace> record_container(const ContainerProcess& process, const ContainerChoice& choice,
                                    TraceOptions options) {
  MIGRATE_ASSIGN(const SignalFd signals, SignalFd::open({SIGINT, SIGTERM}));
  MIGRATE_ASSIGN(const RuntimeDir folder, RuntimeDir::open());
  // Nobody else tracks it meanwhile.
  MIGRATE_ASSIGN(const NameLock name, folder.take_name(process.name));
  MIGRATE_ASSIGN(auto source_options, container_source_options(choice, folder));
  source_options.root = process.root;
  source_options.name = process.name;
  MIGRATE_ASSIGN(const auto source, make_container_source(source_options));
  options.cancel_fd = signals.fd();
  return guarded([&] { return record_trace(*source, options); });
}

ForecastOptions tree_forecast(ForecastOptions options) {
  options.migration.try_emplace("max-downtime", format_duration(kTreeDowntime));
  return options;
}

}  // namespace migrate::tool
