// Tap: a tap interface of this host, open.
#pragma once

#include <cstddef>
#include <string>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// Each packet read and written has a virtio_net_hdr of this many bytes before it, the one of
/// virtio 1 (with num_buffers).
inline constexpr std::size_t kPacketHeaderBytes = 12;

/// The interface must be there: made by the operator, who decides on its bridge and its owner. The
/// kernel computes checksums and cuts packets before they get here (no offloads). Not blocking.
class Tap {
 public:
  /// kNotFound for a missing interface, kPermission when it is somebody else's, kBusy when it is in
  /// use, kInvalidArgument when it is no tap, kUnsupported without /dev/net/tun.
  static Result<Tap> open(const std::string& name);

  [[nodiscard]] int fd() const { return fd_.get(); }
  /// Lets go of the interface; the descriptor stays, reads nothing and takes everything. Any thread
  /// may be using it. An interface that stays then has no carrier. The kernel acts on that within a
  /// second, not at once (333 ms measured, Linux 6.18): a bridge that it belongs to disables the
  /// port and forgets all addresses it had learned there, so frames for them go to all other ports
  /// until they are heard from. Addresses that have been heard from elsewhere by then stay.
  void close();
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  Tap(Fd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  Fd fd_;
  std::string name_;
};

}  // namespace migrate::vmm
