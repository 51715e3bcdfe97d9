// Puts a network interface of this host up or down.
#pragma once

#include <string>

#include "migrate/result.hpp"

namespace migrate::containers {

/// In this thread's network namespace. kNotFound without such an interface, kPermission without the
/// right.
Status set_link(const std::string& name, bool up);
/// Errors likewise.
[[nodiscard]] Result<bool> link_is_up(const std::string& name);

}  // namespace migrate::containers
