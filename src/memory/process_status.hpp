// What /proc tells of the threads of a process.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "memory/pagemap.hpp"
#include "migrate/result.hpp"

namespace migrate {

struct ThreadStatus {
  char state = '?';      ///< As in /proc/PID/status: R, S, D, T, t, Z, X.
  pid_t tracer = 0;      ///< Who ptraces it, 0 for nobody.
  int seccomp_mode = 0;  ///< 0: none.
};
/// From the text of /proc/PID/task/TID/status; what is missing there keeps its default.
[[nodiscard]] ThreadStatus parse_thread_status(std::string_view text);

/// kNotFound once the thread is gone.
Result<ThreadStatus> thread_status(pid_t pid, pid_t tid);

/// The threads of `pid`, zombies among them; kNotFound without such a process.
Result<std::vector<pid_t>> threads_of(pid_t pid);

/// The mappings that are locked in memory (mlock), in order of address; none once it is gone. Only
/// smaps tells, and to make it the kernel walks all page tables: it is asked only where status says
/// that something is locked.
Result<std::vector<AddressRange>> locked_areas(pid_t pid);

/// All of a small file under /proc; kNotFound, kPermission or kIo.
Result<std::string> read_proc_file(const std::string& path);

}  // namespace migrate
