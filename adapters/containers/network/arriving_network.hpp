// ArrivingNetwork: a tree's network where the tree arrives: nothing gets out or in before it is to
// run, what its kernel has said until then is said then, and so is what came for it at its source.
#pragma once

#include <memory>
#include <string>

#include "adapters/containers/network/held_frames.hpp"
#include "adapters/containers/network/link_gate.hpp"
#include "adapters/containers/network/link_peer.hpp"
#include "adapters/containers/network/port_delivery.hpp"
#include "migrate/announce.hpp"
#include "migrate/guest.hpp"

namespace migrate::containers {

/// The tree's interface is the other end of a veth pair whose end here is `link`.
///
/// While connections are restored, their sockets send what was not sent yet. Were that lost, it
/// would be repeated after a second, for a restored connection does not know its round trip. So
/// it waits; and the link is up early, so that it is not waited for. One thread.
class ArrivingNetwork final : public PacketSink {
 public:
  /// `space`: path of the tree's network namespace. kUnsupported where this cannot be done there;
  /// nothing is changed then.
  static Result<std::unique_ptr<ArrivingNetwork>> open(const std::string& link,
                                                       const std::string& space);
  /// The link is as it was, unless the tree got it.
  ~ArrivingNetwork() override;

  /// What was said so far is dropped: a restore begins.
  void begin();
  /// The tree is going to run: its network is open, and switches and neighbours are told where it
  /// is. After an error nothing has got out.
  Status release();

  void source_stands() override {}
  bool deliver(const GuestFrame& frame) override;

 private:
  ArrivingNetwork(std::string link, LinkPeer peer, std::unique_ptr<HeldFrames> outgoing,
                  LinkGate incoming, PortDelivery inwards, PortDelivery outwards)
      : link_(std::move(link)),
        peer_(std::move(peer)),
        outgoing_(std::move(outgoing)),
        incoming_(std::move(incoming)),
        inwards_(std::move(inwards)),
        outwards_(std::move(outwards)) {}
  Status close();
  Status make_announcements(int space);

  const std::string link_;
  const LinkPeer peer_;
  std::unique_ptr<HeldFrames> outgoing_;
  LinkGate incoming_;
  PortDelivery inwards_;
  PortDelivery outwards_;
  std::unique_ptr<Announcer> announcer_;
  bool was_up_ = false;
  bool released_ = false;
};

}  // namespace migrate::containers
