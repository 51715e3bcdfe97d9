// guarded(): a lack of memory or threads becomes an error, where an exception would end the process
// or cross the API.
#pragma once

#include <new>
#include <system_error>
#include <utility>

#include "migrate/result.hpp"

namespace migrate {

/// What `call` returns, a Status or a Result; kNoMemory when it threw std::bad_alloc or, from a
/// library that starts a thread, std::system_error.
template <typename Call>
auto guarded(Call&& call) -> decltype(call()) {
  try {
    return std::forward<Call>(call)();
  } catch (const std::bad_alloc&) {
    // Short enough to need no memory itself.
    return make_error(ErrorCode::kNoMemory, "out of memory");
  } catch (const std::system_error&) {
    return make_error(ErrorCode::kNoMemory, "out of threads");
  }
}

}  // namespace migrate
