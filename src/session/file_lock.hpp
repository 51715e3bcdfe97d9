// Locks on bytes of a file. They belong to the open file, not to the process, and go when it is
// closed, also by a kill.
#pragma once

#include <chrono>
#include <cstdint>

#include "migrate/result.hpp"

namespace migrate::session {

/// Takes the exclusive lock on byte `byte` of `fd`; false when another open file holds it. The byte
/// need not exist.
[[nodiscard]] Result<bool> try_lock_byte(int fd, std::int64_t byte);

/// As try_lock_byte(), and tries again until it has it; kBusy after `patience`.
[[nodiscard]] Status lock_byte(int fd, std::int64_t byte, std::chrono::milliseconds patience);

}  // namespace migrate::session
