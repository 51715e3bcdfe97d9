// FreezeGuard: a process of its own that lets a frozen tree run on should this one die meanwhile.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "adapters/containers/network/link_gate.hpp"
#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// While it lives, the death of this process is followed by the end of CRIU, which without its
/// client lets go of the tasks as they were, and then by the thaw of the group. After committing()
/// the group stays frozen: the tree may run elsewhere, and two must not. So does a gate in front of
/// its network, which is opened before the thaw.
class FreezeGuard {
 public:
  /// `group`: the folder of the tree's cgroup. `criu`: the process that traces it from now on.
  /// `gate`: without a socket there is none.
  static Result<std::unique_ptr<FreezeGuard>> launch(const std::string& group, pid_t criu,
                                                     const GateUndo& gate = {});
  /// Sends the process home.
  ~FreezeGuard();
  FreezeGuard(const FreezeGuard&) = delete;
  FreezeGuard& operator=(const FreezeGuard&) = delete;

  void committing() noexcept;
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  FreezeGuard(Fd words, pid_t pid) : words_(std::move(words)), pid_(pid) {}

  Fd words_;  ///< To it: a byte is an order, the end this process's death.
  const pid_t pid_;
};

}  // namespace migrate::containers
