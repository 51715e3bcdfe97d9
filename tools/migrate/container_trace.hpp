// Which pages a process tree writes: `predict` and `doctor` watch it themselves, for nobody hosts
// it.
#pragma once

#include "container_names.hpp"
#include "container_options.hpp"
#include "forecast_options.hpp"
#include "migrate/dirty_trace.hpp"

namespace migrate::tool {

/// Watches it with the tracker that `send` would use; the tree runs on, each of its processes being
/// stopped for a moment (0.1 ms) when tracking begins. Ends with kCancelled at SIGINT or SIGTERM.
/// Errors as make_container_source(): what speaks against moving it.
[[nodiscard]] Result<DirtyTrace> record_container(const ContainerProcess& process,
                                                  const ContainerChoice& choice,
                                                  TraceOptions options);

/// With the downtime that `send` allows a tree, where no other was given.
[[nodiscard]] ForecastOptions tree_forecast(ForecastOptions options);

}  // namespace migrate::tool
