#include "adapters/containers/network/arriving_network.hpp"

#include <ifaddrs.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "adapters/containers/link_state.hpp"
#include "adapters/containers/network/network_space.hpp"
#include "base/fd.hpp"
#include "base/guarded.hpp"
#include "base/log.hpp"

namespace migrate::containers {
namespace {

/// Restored sockets say at once all that theirs had not sent: 100 of them with half a MiB each, and
/// as much again for the kernel's own.
constexpr int kLeavingBytesMax = 128 << 20;

void add_address(const sockaddr& from, AnnouncedCard& card) {
  IpAddress address;
  if (from.sa_family == AF_PACKET) {
    const auto& link = reinterpret_cast<const sockaddr_ll&>(from);
    std::copy_n(link.sll_addr, card.mac.bytes.size(), card.mac.bytes.begin());
    return;
  }
  if (from.sa_family == AF_INET) {
    std::memcpy(address.bytes.data(), &reinterpret_cast<const sockaddr_in&>(from).sin_addr, 4);
  } else if (from.sa_family == AF_INET6) {
    address.family = IpFamily::kIpv6;
    std::memcpy(address.bytes.data(), &reinterpret_cast<const sockaddr_in6&>(from).sin6_addr, 16);
  } else {
    return;
  }
  if (is_usable(address)) card.ips.push_back(address);
}

/// Of an interface of this thread's namespace.
Status add_addresses(const std::string& name, AnnouncedCard& card) {
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "the tree's addresses cannot be read");
  }
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr != nullptr && name == one->ifa_name) add_address(*one->ifa_addr, card);
  }
  ::freeifaddrs(all);
  return {};
}

}  // namespace

Result<std::unique_ptr<ArrivingNetwork>> ArrivingNetwork::open(const std::string& link,
                                                               const std::string& space) {
  MIGRATE_ASSIGN(const Fd here, open_network({}));
  MIGRATE_ASSIGN(const Fd there, open_network(space));
  MIGRATE_ASSIGN(LinkPeer peer, find_link_peer(link, there.get()));
  MIGRATE_ASSIGN(auto outgoing,
                 HeldFrames::open(here.get(), peer.port, LinkGate::Ways::kIn, kLeavingBytesMax));
  MIGRATE_ASSIGN(LinkGate incoming, LinkGate::open(there.get(), peer.index));
  MIGRATE_ASSIGN(PortDelivery inwards, PortDelivery::open(here.get(), peer.port));
  MIGRATE_ASSIGN(PortDelivery outwards, PortDelivery::open(there.get(), peer.index));
  std::unique_ptr<ArrivingNetwork> network(
      new ArrivingNetwork(link, std::move(peer), std::move(outgoing), std::move(incoming),
                          std::move(inwards), std::move(outwards)));
  MIGRATE_ASSIGN(network->was_up_, link_is_up(link));
  MIGRATE_TRY(network->close());
  if (const Status made = network->make_announcements(there.get()); !made) {
    log_line(LogLevel::kWarning,
             "the network will not be told where the tree is: " + made.error().to_text());
  }
  return network;
}

ArrivingNetwork::~ArrivingNetwork() {
  if (released_) return;
  if (!was_up_) {
    if (const Status down = set_link(link_, false); !down) {
      // Who might answer here for a tree that runs elsewhere is not let out.
      log_line(LogLevel::kError, down.error().to_text());
      return;
    }
  }
  for (const Status& opened : {outgoing_->set(Gate::kOpen), incoming_.set(Gate::kOpen)}) {
    if (!opened) log_line(LogLevel::kWarning, opened.error().to_text());
  }
}

Status ArrivingNetwork::close() {
  MIGRATE_TRY(outgoing_->set(Gate::kClosed));
  MIGRATE_TRY(incoming_.set(Gate::kClosed));
  return set_link(link_, true);
}

Status ArrivingNetwork::make_announcements(int space) {
  AnnouncedCard card;
  card.port = link_;
  MIGRATE_TRY(in_network(space, [&] { return add_addresses(peer_.name, card); }));
  MIGRATE_ASSIGN(announcer_, make_announcer({card}));
  return {};
}

void ArrivingNetwork::begin() { outgoing_->discard(); }

Status ArrivingNetwork::release() {
  // Answers to what leaves must get in.
  MIGRATE_TRY(incoming_.set(Gate::kOpen));
  MIGRATE_TRY(outgoing_->set(Gate::kOpen));
  released_ = true;
  outgoing_->pass_on(outwards_);
  if (const std::uint64_t dropped = outgoing_->dropped(); dropped > 0) {
    log_line(LogLevel::kWarning, std::to_string(dropped) +
                                     " frames of the tree's connections found no room until it "
                                     "started: they will be sent again, in a second or so");
  }
  if (announcer_ == nullptr) return {};
  announcer_->taken_over({{}, {}, std::chrono::steady_clock::now()});
  return {};
}

bool ArrivingNetwork::deliver(const GuestFrame& frame) {
  return frame.card == 0 && inwards_.send(frame.bytes);
}

}  // namespace migrate::containers
