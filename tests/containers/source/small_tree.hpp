// SmallTree: a process tree that counts in memory shared with the test, so that a test can see who
// runs, and that forks when told.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace migrate::containers {

/// The process's cgroup of version 2 as /proc says it ("/a/b"); empty without one.
std::string unified_group_of(pid_t pid);
/// It is there, and no zombie.
bool runs(pid_t pid);

class SmallTree {
 public:
  /// A root with `children` children, in a session of its own and without descriptors of the test.
  /// `echo`: a socket that the root keeps, and answers by what it reads; -1: none. The root has
  /// `private_bytes` of memory of its own, written once, and new `namespaces` (CLONE_NEW...).
  explicit SmallTree(int children, int echo = -1, std::size_t private_bytes = 0,
                     unsigned long namespaces = 0);
  ~SmallTree();
  SmallTree(const SmallTree&) = delete;
  SmallTree& operator=(const SmallTree&) = delete;

  [[nodiscard]] pid_t root() const { return pids_.front(); }
  [[nodiscard]] const std::vector<pid_t>& pids() const { return pids_; }
  /// The root forks once more; gives the child.
  pid_t fork_one();
  /// Of the root and its children.
  [[nodiscard]] std::vector<std::uint64_t> counts() const;
  /// Every process counts on within a deadline.
  [[nodiscard]] bool counts_on() const;
  /// Kills and reaps all.
  void end();

 private:
  struct Shared;
  void wait_for_pids(std::size_t count);
  Shared* shared_ = nullptr;
  std::vector<pid_t> pids_;
};

}  // namespace migrate::containers
