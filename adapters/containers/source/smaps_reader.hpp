// SmapsReader: finds /proc/PID/smaps of a tree that stands, beside CRIU and for it.
#pragma once

#include <thread>
#include <vector>

#include "adapters/containers/criu/hidden_areas.hpp"
#include "adapters/containers/source/smaps_keeper.hpp"

namespace migrate::containers {

/// What is known and holds, else read now, while CRIU has yet to seize the tree. What cannot be
/// read here CRIU reads for itself.
class SmapsReader {
 public:
  /// Begins, in the order in which CRIU will ask: the tree stands, and does so until CRIU has read.
  /// What it is given outlives it.
  SmapsReader(HiddenAreas& into, const SmapsKeeper& known, std::vector<pid_t> processes);
  ~SmapsReader();
  SmapsReader(const SmapsReader&) = delete;
  SmapsReader& operator=(const SmapsReader&) = delete;

 private:
  void run();

  HiddenAreas& into_;
  const SmapsKeeper& known_;
  const std::vector<pid_t> processes_;
  std::thread thread_;
};

}  // namespace migrate::containers
