// SmapsReader: reads /proc/PID/smaps of a tree that stands, beside CRIU and for it.
#pragma once

#include <thread>
#include <vector>

#include "adapters/containers/criu/hidden_areas.hpp"

namespace migrate::containers {

/// The kernel walks all page tables for this file: 14 ms a GiB of small pages, which would be part
/// of the downtime. What cannot be read here CRIU reads for itself.
class SmapsReader {
 public:
  /// Begins, in the order in which CRIU will ask: the tree stands, and does so until CRIU has read.
  SmapsReader(HiddenAreas& into, std::vector<pid_t> processes);
  ~SmapsReader();
  SmapsReader(const SmapsReader&) = delete;
  SmapsReader& operator=(const SmapsReader&) = delete;

 private:
  void run();

  HiddenAreas& into_;
  const std::vector<pid_t> processes_;
  std::thread thread_;
};

}  // namespace migrate::containers
