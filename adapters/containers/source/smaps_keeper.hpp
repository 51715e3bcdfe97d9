// SmapsKeeper: what /proc/PID/smaps said of a tree's processes before they stood, and whether it
// still holds.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "adapters/containers/source/area_flags.hpp"

namespace migrate::containers {

/// CRIU wants each mapping's VmFlags, and to tell them in smaps the kernel walks all page tables
/// (14 ms a GiB of small pages). Read while the tree runs, it is still right when the tree stands
/// if neither /proc/PID/maps nor any mapping's flags have changed: both are told at once. What else
/// smaps tells (how much of a mapping is in memory) is as of then, and CRIU does not use it.
///
/// One thread, but text_that_holds().
class SmapsKeeper {
 public:
  SmapsKeeper() = default;
  ~SmapsKeeper();
  SmapsKeeper(const SmapsKeeper&) = delete;
  SmapsKeeper& operator=(const SmapsKeeper&) = delete;

  /// Reads, in a thread, what is not known or holds no more. Nothing while it is still at that.
  void look(std::vector<pid_t> processes);
  /// The text for a process that stands; nothing: it has to be read. Any thread, while no look() is
  /// called.
  [[nodiscard]] std::optional<std::string> text_that_holds(pid_t pid) const;

 private:
  struct Kept {
    std::vector<AreaFlag> flags;
    std::string maps;
    std::string text;
  };
  void run(const std::vector<pid_t>& processes);
  [[nodiscard]] bool holds(pid_t pid, const Kept& kept) const;
  [[nodiscard]] std::optional<Kept> read(pid_t pid) const;

  std::atomic<bool> busy_{false};
  std::thread thread_;
  // The thread's while busy_.
  bool tried_ = false;
  std::optional<AreaFlags> flags_;
  std::map<pid_t, Kept> kept_;
};

}  // namespace migrate::containers
