// NetSpace: a network namespace without a name, which is gone with the test's process however that
// ends.
#pragma once

#include <functional>
#include <initializer_list>
#include <string>

#include "base/fd.hpp"

namespace migrate::testing {

class NetSpace {
 public:
  /// See why_not().
  NetSpace();
  /// Why there is none here; empty: there is one.
  [[nodiscard]] const std::string& why_not() const { return why_not_; }

  /// Runs `body` in it, on a thread of its own; sockets made there stay in it.
  void run(const std::function<void()>& body) const;
  /// Runs a shell command there; what it printed, errors included.
  std::string sh(const std::string& command) const;
  /// As sh(), for what has to succeed.
  void must(const std::string& command) const;
  /// A name that `ip link ... netns` takes from any namespace.
  [[nodiscard]] std::string path() const;

 private:
  Fd fd_;
  std::string why_not_;
};

/// Takes `capabilities` (CAP_...) from the calling thread, and from what it starts.
void drop_capabilities(std::initializer_list<int> capabilities);

/// A pair of connected interfaces, both up and silent: no IPv6 unless asked for.
void connect(const NetSpace& a, const std::string& name_a, const NetSpace& b,
             const std::string& name_b);

}  // namespace migrate::testing
