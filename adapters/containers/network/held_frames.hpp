// HeldFrames: what comes in on an interface waits, instead of getting to its kernel's IP.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "adapters/containers/network/frame_offloads.hpp"
#include "adapters/containers/network/link_gate.hpp"
#include "adapters/containers/network/port_delivery.hpp"
#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// Frames wait in a packet socket's queue, bounded in bytes: what comes beyond that is dropped, and
/// counted. A frame that comes just as holding begins or ends may be both held and let in, for one
/// that is lost costs its sender more than one that comes twice. One thread.
class HeldFrames {
 public:
  struct Frame {
    FrameBytes bytes;
    /// For this interface's address or for all, not merely seen here.
    bool ours = true;
  };
  /// As the kernel counts them, with what it needs beside: 100 clients leave less than 1 MiB, and a
  /// source at 10 Gbit/s fills this in 10 ms.
  static constexpr int kBytesMax = 16 << 20;

  /// `space`: a descriptor of the network namespace where the interface has this number. Nothing is
  /// held yet. kPermission without the right, kUnsupported where the kernel cannot.
  static Result<std::unique_ptr<HeldFrames>> open(int space, int index,
                                                  LinkGate::Ways ways = LinkGate::Ways::kIn,
                                                  int bytes_max = kBytesMax);

  /// kOpen: nothing new is held; what was waits until it is taken.
  Status set(Gate gate);
  /// The oldest, whole as on a wire. nullopt where none waits.
  std::optional<Frame> take();
  /// All that waits leaves by `port`, as it came: gives how many.
  std::size_t pass_on(PortDelivery& port);
  /// What waits is dropped.
  void discard();
  [[nodiscard]] GateUndo undo() const { return gate_.undo(); }
  [[nodiscard]] bool holds() const { return state_ != Gate::kOpen; }
  /// So far: for lack of room, or not to be understood.
  [[nodiscard]] std::uint64_t dropped();

 private:
  HeldFrames(Fd socket, LinkGate gate, int index);
  Status record(Gate gate);
  /// The oldest, as it came.
  struct Raw {
    FrameOffload left;
    std::size_t bytes = 0;  ///< In buffer_; more than that is there: it is cut off.
    bool ours = true;
    std::uint16_t tag_protocol = 0;  ///< 0: no tag.
    std::uint16_t tag = 0;
  };
  /// False where none waits.
  bool receive(Raw& raw);
  [[nodiscard]] std::optional<std::vector<FrameBytes>> finish(const Raw& raw) const;

  Fd socket_;
  LinkGate gate_;
  int index_;
  Gate state_ = Gate::kOpen;
  bool bound_ = false;
  std::vector<std::byte> buffer_;
  std::deque<Frame> finished_;  ///< Of one that was cut.
  std::uint64_t dropped_ = 0;
};

}  // namespace migrate::containers
