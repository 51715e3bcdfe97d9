// LazyFill: this process's side of filling a restored tree's memory from the staging: it takes the
// userfaultfds from CRIU, has a filler serve them, and fetches for it what has not come yet.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adapters/containers/target/staged_memory.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// Where the content of [begin, end) of a process is staged.
struct FillPlanExtent {
  pid_t pid = 0;  ///< As the tree numbers it.
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t source = 0;  ///< Offset in the staging.
  bool wiped = false;        ///< A child begins with zeros there.
};

struct FillPlan {
  std::vector<FillPlanExtent> extents;  ///< In order of processes and addresses.
  std::vector<pid_t> pids;              ///< Processes whose userfaultfds are to come.
  /// "1" written to it kills the tree (cgroup.kill); stays the caller's. -1: none.
  int kill_fd = -1;
  /// Says when it is gone (cgroup.events); stays the caller's. -1: none.
  int events_fd = -1;
};

/// Methods are the owner's, one thread at a time, unless said otherwise.
class LazyFill {
 public:
  /// Starts the filler: a process, which ends when this is destroyed before begin().
  static Result<std::unique_ptr<LazyFill>> launch();
  /// Before started(): drops everything; the tree must be dead by then. After it: the filler goes
  /// on by itself, or kills the tree where memory is not complete.
  virtual ~LazyFill() = default;

  /// Listens for CRIU on `folder`/lazy-pages.socket. `staging` must live as long as this; its
  /// regions do not change any more.
  virtual Status begin(const FillPlan& plan, StagedMemory& staging, const std::string& folder) = 0;
  /// Until the userfaultfds of all processes have come and are the filler's. kTimeout, or why they
  /// cannot come.
  virtual Status wait_for_processes(std::chrono::steady_clock::time_point deadline) = 0;
  /// The tree's memory map is as it will be when it runs: what it touches first may be filled.
  virtual Status restored() = 0;
  /// To be called before the tree runs: from then on it lives on if this process dies.
  virtual Status started() = 0;
  /// All of the staging is there; a page that is missing in it reads as zero. Any thread.
  virtual Status memory_complete() = 0;
  /// The tree has all its memory, and nothing of this is needed any more. Any thread.
  [[nodiscard]] virtual bool filled() const = 0;
  /// The filler has failed or died, and the tree has been killed for it. Any thread.
  [[nodiscard]] virtual bool lost() const = 0;
  [[nodiscard]] virtual pid_t filler() const = 0;
};

}  // namespace migrate::containers
