// Work on many vCPUs at once.
#pragma once

#include <cstddef>
#include <functional>

#include "migrate/result.hpp"

namespace migrate::kvm {

/// Calls f(0) .. f(count - 1), each once, on a few threads when there are many. f of different
/// vCPUs must not share what it writes. The error is the one of the lowest number. `threads`: this
/// one included; 0: as many as pay.
Status for_each_vcpu(std::size_t count, const std::function<Status(std::size_t)>& f,
                     std::size_t threads = 0);

}  // namespace migrate::kvm
