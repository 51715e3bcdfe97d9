#include "net-takeover/outlets.hpp"

#include "net-takeover/bridge_fdb.hpp"

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

void note_down(const LinkFacts& link, std::vector<std::string>& doubts) {
  if (!link.up) {
    doubts.push_back("network interface '" + link.name + "' is down; `ip link set " + link.name +
                     " up`");
  }
}

/// What comes from a bridge's own interface must be in a VLAN in which that is, too, or it is
/// dropped without a word.
void note_filtering(const LinkFacts& bridge, std::optional<std::uint16_t> vlan,
                    std::vector<std::string>& doubts) {
  if (!bridge.vlan_filtering) return;
  if (vlan) {
    const std::string number = std::to_string(*vlan);
    doubts.push_back("bridge '" + bridge.name + "' filters VLANs: announcements in VLAN " + number +
                     " are dropped unless it is in it itself; `bridge vlan add dev " + bridge.name +
                     " vid " + number + " self`");
  } else {
    doubts.push_back("bridge '" + bridge.name +
                     "' filters VLANs: announcements without a VLAN are in its own (PVID) only; "
                     "give vlan=N where the guest's port is in another one");
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
    note_down(*port, doubts);
  }
  if (!card.leave_by.empty()) {
    MIGRATE_ASSIGN(leave_by, link_facts(card.leave_by));
  } else {
    if (port->bridge == 0) return no_bridge(*port);
    MIGRATE_ASSIGN(leave_by, link_facts(port->bridge));
  }
  note_down(*leave_by, doubts);
  note_filtering(*leave_by, card.vlan, doubts);
  MIGRATE_ASSIGN(PacketSocket socket, PacketSocket::open(*leave_by));
  const int fdb_port = port && port->bridge != 0 ? port->index : 0;
  if (fdb_port != 0) {
    if (const Status may = check_may_set_fdb(); !may) doubts.push_back(may.error().to_text());
  }
  return Outlet{card, std::move(socket), frames_of(card.mac, card.ips, card.vlan), fdb_port,
                std::move(doubts)};
}

}  // namespace migrate::takeover
