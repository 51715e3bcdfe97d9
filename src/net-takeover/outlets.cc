#include "net-takeover/outlets.hpp"

namespace migrate::takeover {
namespace {

Error no_bridge(const LinkFacts& port) {
  const std::string what = port.port_of.empty()
                               ? "is no port of a bridge"
                               : "is a port of kind '" + port.port_of + "', not of a Linux bridge";
  return make_error(ErrorCode::kUnsupported, "'" + port.name + "' leads to the guest and " + what +
                                                 ": what is sent there reaches nobody else")
      .advise("name the interface on which the guest's neighbours are");
}

void note_doubts(const LinkFacts& link, std::vector<std::string>& doubts) {
  if (!link.up) {
    doubts.push_back("network interface '" + link.name + "' is down; `ip link set " + link.name +
                     " up`");
  }
}

}  // namespace

Result<Outlet> open_outlet(const AnnouncedCard& card) {
  MIGRATE_CHECK(!card.port.empty() || !card.leave_by.empty());
  std::vector<std::string> doubts;
  std::optional<LinkFacts> port;
  std::optional<LinkFacts> leave_by;
  if (!card.port.empty()) {
    MIGRATE_ASSIGN(port, link_facts(card.port));
    note_doubts(*port, doubts);
  }
  if (!card.leave_by.empty()) {
    MIGRATE_ASSIGN(leave_by, link_facts(card.leave_by));
  } else {
    if (port->bridge == 0) return no_bridge(*port);
    MIGRATE_ASSIGN(leave_by, link_facts(port->bridge));
  }
  note_doubts(*leave_by, doubts);
  MIGRATE_ASSIGN(PacketSocket socket, PacketSocket::open(*leave_by));
  return Outlet{std::move(socket), frames_of(card.mac, card.ips, card.vlan),    card.mac,
                card.vlan,         port && port->bridge != 0 ? port->index : 0, std::move(doubts)};
}

}  // namespace migrate::takeover
