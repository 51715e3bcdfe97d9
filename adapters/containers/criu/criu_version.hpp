// What is known of CRIU's versions beside what criu_worker.hpp says.
#pragma once

#include <cstddef>

#include "adapters/containers/criu/criu_worker.hpp"

namespace migrate::containers {

[[nodiscard]] bool is_at_least(const CriuVersion& version, int major, int minor);

/// Bytes of a message to a lazy server: its number of pages grew in 4.2 from 32 bits to 64, and
/// what follows is aligned to that.
[[nodiscard]] std::size_t lazy_message_size(const CriuVersion& version);

}  // namespace migrate::containers
