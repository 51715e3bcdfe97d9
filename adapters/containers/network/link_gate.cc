#include "adapters/containers/network/link_gate.hpp"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>

#include <cerrno>
#include <optional>
#include <span>

#include "adapters/containers/network/network_space.hpp"

namespace migrate::containers {
namespace {

constexpr std::uint32_t kQdisc = TC_H_MAKE(TC_H_CLSACT, 0);
constexpr std::uint32_t kIngress = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS);
constexpr std::uint32_t kEgress = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS);
/// Before any other's.
constexpr std::uint32_t kPriority = 1;
/// "mi": tells our filter from others of the same priority.
constexpr std::uint32_t kHandle = 0x6d69;
/// Others may look at it.
constexpr auto kPass = static_cast<std::uint32_t>(TC_ACT_UNSPEC);

tcmsg filter_message(int index, std::uint32_t parent) {
  tcmsg body{};
  body.tcm_family = AF_UNSPEC;
  body.tcm_ifindex = index;
  body.tcm_handle = kHandle;
  body.tcm_parent = parent;
  body.tcm_info = TC_H_MAKE(kPriority << 16, htons(ETH_P_ALL));
  return body;
}

tcmsg qdisc_message(int index) {
  tcmsg body{};
  body.tcm_family = AF_UNSPEC;
  body.tcm_ifindex = index;
  body.tcm_handle = kQdisc;
  body.tcm_parent = TC_H_CLSACT;
  return body;
}

Error refused(int error) {
  const bool forbidden = error == EPERM || error == EACCES;
  return make_errno_error(forbidden ? ErrorCode::kPermission : ErrorCode::kUnsupported, error,
                          "what comes for the tree cannot be kept from its network while it moves")
      .advise(forbidden ? "run as root"
                        : "use a kernel with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF (`tc "
                          "filter show dev IF ingress` lists what others have there)");
}

}  // namespace

HandshakeProgram handshake_program(std::uint32_t hold, std::uint32_t pass) {
  // Offsets in an Ethernet frame without a VLAN's tag, which the kernel keeps beside it. Jumps are
  // told by how many instructions are left out.
  return {{
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 0, 7),
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_TCP, 0, 13),
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 20),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x1fff, 11, 0),  // a later fragment
      BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 14),
      BPF_STMT(BPF_LD | BPF_B | BPF_IND, 14 + 13),
      BPF_JUMP(BPF_JMP | BPF_JA, 5, 0, 0),
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),  // 9: not IPv4
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IPV6, 0, 6),
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 20),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_TCP, 0, 4),
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 14 + 40 + 13),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12),  // 14: of the flags: SYN, ACK
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x02, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, hold),
      BPF_STMT(BPF_RET | BPF_K, pass),
  }};
}

Result<LinkGate> LinkGate::open(int space, int index, Ways ways) {
  std::optional<LinkGate> gate;
  MIGRATE_TRY(in_network(space, [&]() -> Status {
    MIGRATE_ASSIGN(RouteNetlink route, RouteNetlink::open());
    gate = LinkGate(std::move(route), index, ways);
    return {};
  }));
  return *std::move(gate);
}

Status LinkGate::attach() {
  NetlinkMessage add(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, qdisc_message(index_));
  add.add_text(TCA_KIND, "clsact");
  MIGRATE_ASSIGN(const int error, route_.ask(std::move(add)));
  if (error != 0 && error != EEXIST && error != EBUSY) return refused(error);
  others_ = error != 0;
  return {};
}

Status LinkGate::put_filter(std::uint32_t parent, Gate gate) {
  static constexpr sock_filter kDrop[] = {BPF_STMT(BPF_RET | BPF_K, TC_ACT_SHOT)};
  const HandshakeProgram handshakes = handshake_program(TC_ACT_SHOT, kPass);
  const std::span<const sock_filter> program =
      gate == Gate::kClosed ? std::span<const sock_filter>(kDrop) : handshakes;
  NetlinkMessage put(RTM_NEWTFILTER, NLM_F_CREATE, filter_message(index_, parent));
  put.add_text(TCA_KIND, "bpf");
  const std::size_t options = put.begin_nest(TCA_OPTIONS);
  const auto length = static_cast<std::uint16_t>(program.size());
  put.add(TCA_BPF_OPS_LEN, &length, sizeof(length));
  put.add(TCA_BPF_OPS, program.data(), program.size_bytes());
  const std::uint32_t flags = TCA_BPF_FLAG_ACT_DIRECT;
  put.add(TCA_BPF_FLAGS, &flags, sizeof(flags));
  put.end_nest(options);
  MIGRATE_ASSIGN(const int error, route_.ask(std::move(put)));
  return error == 0 ? Status() : Status(refused(error));
}

Status LinkGate::remove_filter(std::uint32_t parent) {
  NetlinkMessage remove(RTM_DELTFILTER, 0, filter_message(index_, parent));
  remove.add_text(TCA_KIND, "bpf");
  MIGRATE_ASSIGN(const int error, route_.ask(std::move(remove)));
  // An interface that is gone lets nothing in either. Without any filter of a priority it is
  // EINVAL.
  const bool gone = error == 0 || error == ENOENT || error == ENODEV || error == EINVAL;
  return gone ? Status() : Status(refused(error));
}

Status LinkGate::set(Gate gate) {
  if (gate == gate_) return {};
  if (gate != Gate::kOpen) {
    if (gate_ == Gate::kOpen) MIGRATE_TRY(attach());
    MIGRATE_TRY(put_filter(kIngress, gate));
    gate_ = gate;
    const bool out = gate == Gate::kClosed && ways_ == Ways::kBoth;
    return out ? put_filter(kEgress, gate) : Status();
  }
  if (others_) {
    if (ways_ == Ways::kBoth) MIGRATE_TRY(remove_filter(kEgress));
    MIGRATE_TRY(remove_filter(kIngress));
  } else {
    NetlinkMessage remove(RTM_DELQDISC, 0, qdisc_message(index_));
    MIGRATE_ASSIGN(const int error, route_.ask(std::move(remove)));
    if (error != 0 && error != ENOENT && error != ENODEV) return refused(error);
  }
  gate_ = Gate::kOpen;
  return {};
}

GateUndo LinkGate::undo() const {
  GateUndo undo;
  undo.socket = route_.fd();
  for (const std::uint32_t parent : {kEgress, kIngress}) {
    NetlinkMessage remove(RTM_DELTFILTER, 0, filter_message(index_, parent));
    remove.add_text(TCA_KIND, "bpf");
    const std::span<const char> bytes = remove.bytes();
    undo.message.insert(undo.message.end(), bytes.begin(), bytes.end());
  }
  return undo;
}

}  // namespace migrate::containers
