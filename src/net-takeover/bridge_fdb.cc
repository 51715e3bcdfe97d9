#include "net-takeover/bridge_fdb.hpp"

#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <cerrno>

#include "net-takeover/netlink.hpp"

namespace migrate::takeover {
namespace {

Result<int> try_entry(Netlink& netlink, int port_index, const MacAddress& mac,
                      std::optional<std::uint16_t> vlan) {
  ndmsg neighbour{};
  neighbour.ndm_family = AF_BRIDGE;
  neighbour.ndm_ifindex = port_index;
  neighbour.ndm_state = NUD_REACHABLE;
  neighbour.ndm_flags = NTF_MASTER;
  NetlinkRequest request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE,
                         std::as_bytes(std::span(&neighbour, 1)));
  request.attribute(NDA_LLADDR, std::as_bytes(std::span(mac.bytes)));
  if (vlan) request.attribute(NDA_VLAN, *vlan);
  return netlink.ask(request);
}

}  // namespace

Status set_fdb_entry(int port_index, const MacAddress& mac, std::optional<std::uint16_t> vlan) {
  MIGRATE_ASSIGN(Netlink netlink, Netlink::open());
  MIGRATE_ASSIGN(int refused, try_entry(netlink, port_index, mac, vlan));
  // A bridge that does not tell VLANs apart has its entries without.
  if (refused == EINVAL && vlan) {
    MIGRATE_ASSIGN(refused, try_entry(netlink, port_index, mac, std::nullopt));
  }
  if (refused == 0) return {};
  if (refused == ENODEV) {
    return make_errno_error(ErrorCode::kNotFound, refused,
                            "the guest's port on the bridge is gone");
  }
  const std::string what = "cannot set " + to_text(mac) + " in the bridge's forwarding table";
  if (refused == EPERM || refused == EACCES) {
    // Also what a port in which the bridge forwards nothing says.
    return make_errno_error(ErrorCode::kPermission, refused, what)
        .advise("run as root or with CAP_NET_ADMIN, and see that the port is up (`bridge link`)");
  }
  return make_errno_error(ErrorCode::kIo, refused, what)
      .advise("see `bridge link` and `bridge fdb`; it learns when the guest sends");
}

Status check_may_set_fdb() {
  MIGRATE_ASSIGN(Netlink netlink, Netlink::open());
  // The kernel asks for the capability before it looks at what is wanted: here nothing that is.
  MIGRATE_ASSIGN(const int refused, try_entry(netlink, 0, MacAddress{}, std::nullopt));
  if (refused != EPERM && refused != EACCES) return {};
  return make_errno_error(ErrorCode::kPermission, refused,
                          "the bridge's forwarding table cannot be set: it learns where the guest "
                          "is only when that sends")
      .advise("run as root or with CAP_NET_ADMIN (setcap cap_net_raw,cap_net_admin+ep)");
}

}  // namespace migrate::takeover
