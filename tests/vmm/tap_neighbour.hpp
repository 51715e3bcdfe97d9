// TapNeighbour: a tap interface in a network namespace of this thread's own, and a raw socket on
// it.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <string>

#include "base/fd.hpp"
#include "tests/vmm/frames.hpp"

namespace migrate::vmm::test {

/// The thread that makes one is in a namespace of its own until its end. Threads it starts later,
/// too.
class OwnNetwork {
 public:
  OwnNetwork();
  ~OwnNetwork();
  OwnNetwork(const OwnNetwork&) = delete;
  OwnNetwork& operator=(const OwnNetwork&) = delete;
  /// False where namespaces are not to be had.
  [[nodiscard]] bool there() const { return there_; }

 private:
  Fd before_;
  bool there_ = false;
};

/// The interface stays until its namespace goes.
class TapNeighbour {
 public:
  explicit TapNeighbour(const std::string& name);

  [[nodiscard]] const std::string& name() const { return name_; }
  /// Whether somebody has the tap open.
  [[nodiscard]] bool has_carrier() const;
  /// Waits until frames reach the tap's queue: for a while after it was opened they do not.
  void wait_until_it_takes_frames() const;
  void send(const Bytes& frame) const;
  /// By which frames are the guest's; kGuestMac at first.
  void set_guest_mac(const Bytes& mac) { guest_mac_ = mac; }
  /// The next frame that comes from the guest; nullopt when none has come for so long.
  [[nodiscard]] std::optional<Bytes> receive(
      std::chrono::milliseconds patience = std::chrono::seconds(30)) const;
  /// Nothing is there now.
  [[nodiscard]] bool silent() const { return !receive(std::chrono::milliseconds(0)); }

 private:
  const std::string name_;
  Bytes guest_mac_ = kGuestMac;
  Fd socket_;
};

}  // namespace migrate::vmm::test
