// `send pid:PID` and `send container:NAME`: no process of this program hosts such a guest, so the
// command does so itself while it is sent.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>

#include "command.hpp"
#include "container_names.hpp"
#include "container_options.hpp"
#include "detach.hpp"
#include "guest_host.hpp"
#include "signals.hpp"

namespace migrate::tool {

/// The downtime that a tree is allowed where no other is asked for. CRIU takes 10 to 20 ms for a
/// tree of one process and some more for each other one, however little memory is left: the 50 ms
/// that a virtual machine has would refuse every tree of ten.
inline constexpr std::chrono::milliseconds kTreeDowntime{300};

/// Sends it. Its control socket answers meanwhile, so that `status`, `cancel` and `resolve` work
/// from elsewhere. A signal cancels it. Prints the report; the exit code. With the owner in doubt
/// the report comes at once, and the process stays, with the tree standing, until it is resolved.
/// With `detacher` it goes to the background once the migration is under way; what it has to say
/// then, other than that all went well, is in its log.
int send_container(const GlobalOptions& global, const ContainerProcess& process,
                   const ContainerChoice& choice, MigrationRequest request, std::FILE* events,
                   const SignalFd& signals, std::optional<Detacher> detacher);

/// What `send --detach` says.
void print_send_start(const GlobalOptions& global, const std::string& name, std::uint64_t migration,
                      const std::string& target);

}  // namespace migrate::tool
