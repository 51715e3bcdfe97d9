// FileArbiter: names the owner of a session in a file that appears once and never changes.
#pragma once

#include <string>

#include "migrate/arbiter.hpp"

namespace migrate::session {

/// The compare-and-swap is link(2): it gives a complete, flushed file its final name unless that
/// name is taken, atomically on local and on network file systems. No lock is held, so no crash and
/// no lost lock server can leave one behind or grant one twice.
class FileArbiter final : public Arbiter {
 public:
  explicit FileArbiter(std::string directory) : directory_(std::move(directory)) {}

  Result<bool> acquire(const std::string& session, Side side) override;

 private:
  const std::string directory_;
};

}  // namespace migrate::session
