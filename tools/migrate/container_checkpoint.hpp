// `checkpoint pid:PID` and `checkpoint container:NAME`: the command writes such a guest itself.
#pragma once

#include "command.hpp"
#include "container_names.hpp"
#include "container_options.hpp"
#include "migrate/checkpoint.hpp"
#include "migrate/result.hpp"
#include "signals.hpp"

namespace migrate::tool {

/// Writes an image while the tree stands; it runs on then, or is ended where `stop` says so. A
/// signal gives the image up. An error: it did not begin.
Result<CheckpointReport> checkpoint_container(const ContainerProcess& process,
                                              const ContainerChoice& choice,
                                              const CheckpointOptions& options, bool stop,
                                              const SignalFd& signals);

}  // namespace migrate::tool
