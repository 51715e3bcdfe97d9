// LockTables: the tables of nftables by which CRIU keeps packets from connections that it copies,
// for where it cannot take them away itself.
#pragma once

#include <sys/types.h>

#include <set>
#include <string>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// In the network namespace of one process, also after that process has ended.
class LockTables {
 public:
  /// kNotFound without such a process.
  static Result<LockTables> of_process(pid_t pid);

  /// The names of CRIU's tables ("CRIU-..."), anybody's; none where the kernel has no nftables.
  [[nodiscard]] Result<std::set<std::string>> list() const;
  /// Tables that are not there are removed already.
  Status remove(const std::set<std::string>& names) const;

 private:
  explicit LockTables(Fd space) : namespace_(std::move(space)) {}
  Fd namespace_;
};

}  // namespace migrate::containers
