// `send pid:PID` and `send container:NAME`: no process of this program hosts such a guest, so the
// command does so itself while it is sent.
#pragma once

#include <cstdio>

#include "command.hpp"
#include "container_names.hpp"
#include "container_options.hpp"
#include "guest_host.hpp"
#include "signals.hpp"

namespace migrate::tool {

/// Sends it. Its control socket answers meanwhile, so that `status`, `cancel` and `resolve` work
/// from elsewhere. A signal cancels it. Prints the report; the exit code. With the owner in doubt
/// the report comes at once, and the process stays, with the tree standing, until it is resolved.
int send_container(const GlobalOptions& global, const ContainerProcess& process,
                   const ContainerChoice& choice, MigrationRequest request, std::FILE* events,
                   const SignalFd& signals);

}  // namespace migrate::tool
