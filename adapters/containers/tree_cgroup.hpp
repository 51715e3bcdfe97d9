// TreeCgroup: the cgroup (version 2) of a process tree, by which it is frozen and killed as one.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// Any thread; calls do not overlap.
class TreeCgroup {
 public:
  /// The group that `root`'s tree (its descendants) has to itself, or a new one below its present
  /// group that all of them are moved to; destroying this moves them back and removes it (not where
  /// they have been killed or keep() was called). kUnsupported, with a remedy, where there is no
  /// writable hierarchy of version 2 or it lacks cgroup.freeze or cgroup.kill.
  static Result<std::unique_ptr<TreeCgroup>> of_tree(pid_t root);
  /// A new, empty one named `name` (made fit for a file name, and unique) below this process's.
  static Result<std::unique_ptr<TreeCgroup>> create(const std::string& name);
  virtual ~TreeCgroup() = default;

  [[nodiscard]] virtual const std::string& path() const = 0;  ///< Of its folder.
  [[nodiscard]] virtual std::string procs_file() const = 0;   ///< cgroup.procs.
  /// The processes in it, as numbered in this process's pid namespace.
  virtual Result<std::vector<pid_t>> processes() const = 0;
  /// cgroup.freeze; true waits until all stand (or are held by ptrace), at most until `deadline`.
  virtual Status freeze(bool frozen, std::chrono::steady_clock::time_point deadline) = 0;
  /// cgroup.kill, and waits until it is empty (zombies do not count).
  virtual Status kill(std::chrono::steady_clock::time_point deadline) = 0;
  /// Leaves the group and the processes in it as they are.
  virtual void keep() noexcept = 0;
};

}  // namespace migrate::containers
