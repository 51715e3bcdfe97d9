// Bytes that nobody can guess, from the kernel.
#pragma once

#include <sys/random.h>

#include <cerrno>
#include <cstddef>
#include <span>

#include "migrate/result.hpp"

namespace migrate {

/// Fills all of it. kIo when the kernel gives none, which it does only where the call is filtered.
inline Status fill_random(std::span<std::byte> into) {
  while (!into.empty()) {
    const ssize_t got = ::getrandom(into.data(), into.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      return make_errno_error(ErrorCode::kIo, errno, "the kernel gives no random numbers")
          .advise("allow the system call getrandom()");
    }
    into = into.subspan(static_cast<std::size_t>(got));
  }
  return {};
}

}  // namespace migrate
