// PortDelivery: sends whole Ethernet frames on an interface.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "adapters/containers/network/frame_offloads.hpp"
#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// One thread.
class PortDelivery {
 public:
  /// `space`: a descriptor of the network namespace where the interface has this number.
  /// kPermission without the right.
  static Result<PortDelivery> open(int space, int index);
  /// `left`: what the kernel, or a card, has still to do to it. False: the interface is down, or
  /// its queue full.
  [[nodiscard]] bool send(std::span<const std::byte> frame, const FrameOffload& left = {});

 private:
  explicit PortDelivery(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace migrate::containers
