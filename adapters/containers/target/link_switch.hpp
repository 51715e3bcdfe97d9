// A network interface of this host, put up.
#pragma once

#include <string>

#include "migrate/result.hpp"

namespace migrate::containers {

/// As `ip link set NAME up`. kNotFound without such an interface.
[[nodiscard]] Status put_link_up(const std::string& name);

}  // namespace migrate::containers
