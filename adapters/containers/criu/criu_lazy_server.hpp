// The server of memory that a lazy dump ends with: told that nobody will come.
#pragma once

#include <cstdint>

#include "adapters/containers/criu/criu_version.hpp"
#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// To be called while CRIU waits at "status-ready": it listens by then, and takes the message when
/// that hook is answered. The connection stays open until the dump has ended: CRIU's answer on it
/// must find somebody, or CRIU takes its dump for failed and lets the tree run.
[[nodiscard]] Result<Fd> close_lazy_server(std::uint16_t port, const CriuVersion& version);

}  // namespace migrate::containers
