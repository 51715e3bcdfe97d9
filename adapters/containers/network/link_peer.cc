#include "adapters/containers/network/link_peer.hpp"

#include <linux/if_link.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "adapters/containers/network/network_space.hpp"
#include "adapters/containers/network/route_netlink.hpp"

namespace migrate::containers {
namespace {

struct Link {
  int index = 0;
  int peer = 0;  ///< Of a pair: the other end's index, in its namespace.
  unsigned flags = 0;
  bool veth = false;
  /// The namespace of the other end, as this one numbers it; -1 where that is this one.
  int space = -1;
  std::string name;
};

std::string text_of(std::span<const char> value) {
  return {value.data(), ::strnlen(value.data(), value.size())};
}

Link parse_link(std::span<const char> body) {
  Link link;
  ifinfomsg info{};
  if (body.size() < sizeof(info)) return link;
  std::memcpy(&info, body.data(), sizeof(info));
  link.index = info.ifi_index;
  link.flags = info.ifi_flags;
  for_each_netlink_attribute(
      body.subspan(NLMSG_ALIGN(sizeof(info))),
      [&](std::uint16_t type, std::span<const char> value) {
        if (type == IFLA_IFNAME) link.name = text_of(value);
        if (type == IFLA_LINK && value.size() == sizeof(link.peer)) {
          std::memcpy(&link.peer, value.data(), sizeof(link.peer));
        }
        if (type == IFLA_LINK_NETNSID && value.size() == sizeof(link.space)) {
          std::memcpy(&link.space, value.data(), sizeof(link.space));
        }
        if (type != IFLA_LINKINFO) return;
        for_each_netlink_attribute(value, [&](std::uint16_t kind, std::span<const char> words) {
          if (kind == IFLA_INFO_KIND) link.veth = text_of(words) == "veth";
        });
      });
  return link;
}

Result<Link> look_at_link(int index) {
  MIGRATE_ASSIGN(RouteNetlink route, RouteNetlink::open());
  ifinfomsg info{};
  info.ifi_index = index;
  Link link;
  MIGRATE_ASSIGN(const int refused, route.ask(NetlinkMessage(RTM_GETLINK, 0, info),
                                              [&](auto body) { link = parse_link(body); }));
  if (refused == 0 && link.index == index) return link;
  return make_errno_error(ErrorCode::kNotFound, refused == 0 ? ENODEV : refused,
                          "there is no network interface " + std::to_string(index));
}

/// How this thread's namespace numbers another one; -1 where it does not.
Result<int> number_of_space(int space) {
  MIGRATE_ASSIGN(RouteNetlink route, RouteNetlink::open());
  NetlinkMessage ask(RTM_GETNSID, 0, rtgenmsg{AF_UNSPEC});
  ask.add(NETNSA_FD, &space, sizeof(space));
  int number = -1;
  MIGRATE_ASSIGN(const int refused, route.ask(std::move(ask), [&](std::span<const char> body) {
    const std::size_t skip = std::min<std::size_t>(NLMSG_ALIGN(sizeof(rtgenmsg)), body.size());
    for_each_netlink_attribute(body.subspan(skip), [&](std::uint16_t type, auto value) {
      if (type == NETNSA_NSID && value.size() == sizeof(number)) {
        std::memcpy(&number, value.data(), sizeof(number));
      }
    });
  }));
  if (refused == 0) return number;
  return make_errno_error(ErrorCode::kIo, refused, "the kernel does not tell of its namespaces");
}

/// In this thread's namespace.
std::vector<Link> links_here() {
  std::vector<Link> links;
  struct if_nameindex* const names = ::if_nameindex();
  if (names == nullptr) return links;
  for (const struct if_nameindex* one = names; one->if_index != 0; ++one) {
    // One that is gone meanwhile.
    if (auto link = look_at_link(static_cast<int>(one->if_index))) {
      links.push_back(*std::move(link));
    }
  }
  ::if_freenameindex(names);
  return links;
}

}  // namespace

Result<LinkPeer> find_link_peer(const std::string& link, int space) {
  const unsigned index = ::if_nametoindex(link.c_str());
  if (index == 0) {
    return make_errno_error(ErrorCode::kNotFound, errno, "there is no network interface " + link)
        .advise("name one of this host's (ip link)");
  }
  MIGRATE_ASSIGN(const Link mine, look_at_link(static_cast<int>(index)));
  MIGRATE_ASSIGN(const int number, number_of_space(space));
  // Indices alone are the same in many namespaces.
  const bool leads_there = mine.veth && mine.space >= 0 && mine.space == number;
  LinkPeer peer;
  peer.only = true;
  peer.port = mine.index;
  MIGRATE_TRY(in_network(space, [&]() -> Status {
    for (const Link& one : links_here()) {
      if (leads_there && one.veth && one.index == mine.peer && one.peer == mine.index) {
        peer.index = one.index;
        peer.name = one.name;
      } else if ((one.flags & IFF_UP) != 0 && (one.flags & IFF_LOOPBACK) == 0) {
        peer.only = false;
      }
    }
    return {};
  }));
  if (peer.index != 0) return peer;
  return make_error(ErrorCode::kUnsupported,
                    "the network interface " + link +
                        " is not this host's end of a veth pair whose other end the tree has")
      .advise("name that one: what comes for the tree while it moves is then kept for it");
}

}  // namespace migrate::containers
