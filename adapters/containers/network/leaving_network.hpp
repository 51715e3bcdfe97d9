// LeavingNetwork: a tree's network while the tree leaves: nothing that comes for it is lost, and
// nothing of it is answered by a kernel that does not have it any more.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adapters/containers/network/held_frames.hpp"
#include "adapters/containers/network/link_peer.hpp"
#include "adapters/containers/network/port_delivery.hpp"
#include "adapters/containers/network/socket_census.hpp"
#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// The tree's interface is the other end of a veth pair whose end here is `link`.
///
///   settle()   new connections wait; those under way come to be the tree's, which runs
///   hold()     the tree stands: all that comes waits, or is taken to be sent after it
///   go_on()    it runs on here: what waits gets to it
///   end()      it runs elsewhere, and the link is down
///
/// Should this process end after settle(), what comes is dropped until undo() is done by another:
/// its senders repeat it, and no kernel resets a connection that lives elsewhere. One thread.
class LeavingNetwork final : public PacketSource {
 public:
  /// `space`: a descriptor of the tree's network namespace. kUnsupported where this cannot be done
  /// there.
  static Result<std::unique_ptr<LeavingNetwork>> open(int space, const std::string& link);
  /// As go_on(), unless leave_closed() was called.
  ~LeavingNetwork() override;

  /// How to let in what comes, from the moment settle() is called.
  [[nodiscard]] GateUndo undo() const { return held_->undo(); }
  /// Returns when nothing is under way, and after a bounded time; an error leaves all as it was.
  Status settle();
  Status hold();
  void go_on() noexcept;
  void end() noexcept;
  /// Whoever ends this does not know where the tree runs.
  void leave_closed() noexcept { closed_ = true; }

  [[nodiscard]] bool holds() const { return held_->holds(); }
  /// All that can come for the tree comes by what is held: CRIU need not lock anything.
  [[nodiscard]] bool covers_all() const;

  Result<std::vector<GuestFrame>> take_waiting(std::size_t frames_max,
                                               std::size_t bytes_max) override;
  void give_back(std::vector<GuestFrame> frames) override;

 private:
  LeavingNetwork(LinkPeer peer, std::unique_ptr<HeldFrames> held, PortDelivery port,
                 SocketCensus census)
      : peer_(std::move(peer)),
        held_(std::move(held)),
        port_(std::move(port)),
        census_(std::move(census)) {}
  void say_dropped();

  const LinkPeer peer_;
  const std::unique_ptr<HeldFrames> held_;
  PortDelivery port_;
  const SocketCensus census_;
  std::vector<GuestFrame> given_back_;
  std::uint64_t told_dropped_ = 0;
  bool closed_ = false;
};

}  // namespace migrate::containers
