#include "net-takeover/link_facts.hpp"

#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>

#include <cerrno>
#include <cstring>

#include "net-takeover/netlink.hpp"

namespace migrate::takeover {
namespace {

std::string text_of(std::span<const std::byte> value) {
  const auto* text = reinterpret_cast<const char*>(value.data());
  return {text, strnlen(text, value.size())};
}

std::uint32_t number_of(std::span<const std::byte> value) {
  std::uint32_t number = 0;
  if (value.size() == sizeof number) std::memcpy(&number, value.data(), sizeof number);
  return number;
}

bool filters_vlans(std::span<const std::byte> bridge_data) {
  bool on = false;
  for_each_attribute(bridge_data, [&on](auto type, auto value) {
    if (type == IFLA_BR_VLAN_FILTERING && !value.empty()) on = value.front() != std::byte{0};
  });
  return on;
}

LinkFacts parse(std::span<const std::byte> body) {
  LinkFacts facts;
  ifinfomsg info{};
  if (body.size() < sizeof info) return facts;
  std::memcpy(&info, body.data(), sizeof info);
  facts.index = info.ifi_index;
  facts.up = (info.ifi_flags & IFF_UP) != 0;
  facts.ethernet = info.ifi_type == ARPHRD_ETHER;
  int master = 0;
  std::span<const std::byte> data;
  for_each_attribute(body.subspan(NLMSG_ALIGN(sizeof info)), [&](auto type, auto value) {
    if (type == IFLA_IFNAME) facts.name = text_of(value);
    if (type == IFLA_MTU) facts.mtu = number_of(value);
    if (type == IFLA_MASTER) master = static_cast<int>(number_of(value));
    if (type != IFLA_LINKINFO) return;
    for_each_attribute(value, [&](auto inner, auto text) {
      if (inner == IFLA_INFO_KIND) facts.kind = text_of(text);
      if (inner == IFLA_INFO_SLAVE_KIND) facts.port_of = text_of(text);
      if (inner == IFLA_INFO_DATA) data = text;
    });
  });
  if (facts.port_of == "bridge") facts.bridge = master;
  // What the data mean is the kind's to say.
  if (facts.kind == "bridge") facts.vlan_filtering = filters_vlans(data);
  return facts;
}

Result<LinkFacts> ask(const std::string& name, int index) {
  const std::string called = name.empty() ? "number " + std::to_string(index) : "'" + name + "'";
  MIGRATE_ASSIGN(Netlink netlink, Netlink::open());
  ifinfomsg info{};
  info.ifi_family = AF_UNSPEC;
  info.ifi_index = index;
  NetlinkRequest request(RTM_GETLINK, 0, std::as_bytes(std::span(&info, 1)));
  if (!name.empty()) request.attribute(IFLA_IFNAME, name);
  LinkFacts facts;
  MIGRATE_ASSIGN(const int refused,
                 netlink.ask(request, [&facts](auto body) { facts = parse(body); }));
  if (refused == ENODEV) {
    return make_error(ErrorCode::kNotFound, "there is no network interface " + called)
        .advise("`ip link` lists those of this host; create it first, or name another one");
  }
  if (refused != 0) {
    return make_errno_error(ErrorCode::kIo, refused, "cannot look at network interface " + called);
  }
  return facts;
}

}  // namespace

Result<LinkFacts> link_facts(const std::string& name) {
  if (name.empty() || name.size() >= IFNAMSIZ) {
    return make_error(ErrorCode::kInvalidArgument,
                      "'" + name + "' cannot be the name of a network interface")
        .advise("give 1 to 15 characters; `ip link` lists those of this host");
  }
  return ask(name, 0);
}

Result<LinkFacts> link_facts(int index) { return ask({}, index); }

}  // namespace migrate::takeover
