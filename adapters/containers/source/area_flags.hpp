// AreaFlags: the kernel's flags of a process's mappings, without a walk over its memory.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// A mapping as the kernel has it: addresses, and vm_flags, whose bits are the kernel's own affair:
/// good to be held against an earlier look, bit by bit, and for nothing else.
struct AreaFlag {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t flags = 0;
  bool operator==(const AreaFlag&) const = default;
};

/// By a BPF iterator over the mappings of a task (Linux 6.1 with BTF; needs root): what
/// /proc/PID/smaps tells as VmFlags costs there a look at every page.
class AreaFlags {
 public:
  /// kUnsupported where the kernel has no such iterator, or does not let this process use it.
  static Result<AreaFlags> create();
  /// In order of addresses; empty for a process that has ended. Any thread.
  [[nodiscard]] Result<std::vector<AreaFlag>> read(pid_t pid) const;

 private:
  explicit AreaFlags(Fd program) : program_(std::move(program)) {}
  Fd program_;
};

}  // namespace migrate::containers
