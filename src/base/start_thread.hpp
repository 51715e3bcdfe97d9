// start_thread(): a thread, or an error where the host gives none; std::thread would throw.
#pragma once

#include <pthread.h>

#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "migrate/result.hpp"

namespace migrate {

/// `thread` runs `run` from now on, under the name `name` (at most 15 characters). It must not run
/// already.
template <typename Run>
Status start_thread(std::thread& thread, const char* name, Run&& run) {
  try {
    thread = std::thread(std::forward<Run>(run));
  } catch (const std::system_error& error) {
    return make_errno_error(ErrorCode::kNoMemory, error.code().value(), "no thread can be started")
        .advise("raise this host's limit of threads: ulimit -u, pids.max, TasksMax of a service");
  } catch (const std::bad_alloc&) {
    return make_error(ErrorCode::kNoMemory, "out of memory");
  }
  pthread_setname_np(thread.native_handle(), name);
  return {};
}

}  // namespace migrate
