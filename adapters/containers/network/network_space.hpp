// Acts in another network namespace.
#pragma once

#include <functional>
#include <string>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// "/run/netns/NAME", "/proc/PID/ns/net"; empty: this thread's own. kNotFound without such a file.
[[nodiscard]] Result<Fd> open_network(const std::string& path);

/// Runs `act` on a thread that is in the network namespace `space` (a descriptor of it), and waits
/// for it. Sockets that are made there belong to it for good, whoever uses them.
Status in_network(int space, const std::function<Status()>& act);

}  // namespace migrate::containers
