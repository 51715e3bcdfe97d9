#include "adapters/containers/criu/ready_breakpoints.hpp"

#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace migrate::containers {

Fd keep_breakpoints_ready() {
  perf_event_attr nothing{};
  nothing.type = PERF_TYPE_SOFTWARE;
  nothing.size = sizeof nothing;
  nothing.config = PERF_COUNT_SW_DUMMY;
  nothing.disabled = 1;
  nothing.exclude_kernel = 1;
  constexpr pid_t kThisThread = 0;
  constexpr int kAnyProcessor = -1;
  constexpr int kNoGroup = -1;
  return Fd(static_cast<int>(::syscall(SYS_perf_event_open, &nothing, kThisThread, kAnyProcessor,
                                       kNoGroup, PERF_FLAG_FD_CLOEXEC)));
}

}  // namespace migrate::containers
