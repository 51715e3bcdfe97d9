// From a fork to CRIU's first instruction: only what is safe in a child that shares our memory.
#pragma once

#include <sys/types.h>

#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// All that the child needs, made before it: it allocates nothing.
struct ChildPlan {
  const char* path = nullptr;
  char* const* arguments = nullptr;
  char* const* environment = nullptr;
  std::vector<int> cgroups;  ///< Open files cgroup.procs.
  /// Ours, and the number that the program finds it under. No number is also one of ours.
  std::vector<std::pair<int, int>> descriptors;
  std::vector<int> keep;  ///< All that are not closed, in order: the numbers, and `report`.
  int report = -1;        ///< A pipe's end that closes at exec; a ChildFailure goes into it.
};

struct ChildFailure {
  enum class Step : int { kCgroup = 1, kDescriptor, kClose, kExec };
  Step step = Step::kExec;
  int error = 0;
};

/// The child's pid, its program running. kNotFound, kPermission and the like where it does not
/// start; then it is gone again. `report` is the other end of the plan's.
Result<pid_t> run_child(const ChildPlan& plan, Fd report_write, int report_read);

}  // namespace migrate::containers
