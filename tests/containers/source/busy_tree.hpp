// BusyTree: processes that map, write, move, unmap, discard and lock memory, fork and end, by a
// seed, until they are killed.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace migrate::containers {

class BusyTree {
 public:
  explicit BusyTree(unsigned seed);
  ~BusyTree();
  BusyTree(const BusyTree&) = delete;
  BusyTree& operator=(const BusyTree&) = delete;

  [[nodiscard]] pid_t root() const { return root_; }
  /// How often it has forked.
  [[nodiscard]] std::uint64_t forks() const;

 private:
  struct Shared;
  Shared* shared_ = nullptr;
  pid_t root_ = 0;
};

}  // namespace migrate::containers
