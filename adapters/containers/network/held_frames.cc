#include "adapters/containers/network/held_frames.hpp"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "adapters/containers/network/network_space.hpp"

namespace migrate::containers {
namespace {

/// The kernel's largest (GSO_LEGACY_MAX_SIZE) and its headers; larger ones are an option of links.
constexpr std::size_t kFrameMax = 128 * 1024;
/// A filter's answer: all of the frame.
constexpr std::uint32_t kWhole = 0xffffffff;

Error packet_error(int error) {
  return make_errno_error(error == EPERM ? ErrorCode::kPermission : ErrorCode::kUnsupported, error,
                          "what comes for the tree cannot be kept while it moves")
      .advise("run as root, on a kernel with CONFIG_PACKET");
}

template <typename T>
bool set_option(int fd, int level, int name, const T& value) {
  return ::setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

Result<Fd> open_packet_socket(int bytes_max) {
  // Protocol 0: it hears nothing before it is bound.
  Fd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int one = 1;
  // The kernel doubles what it is given.
  const int bytes = bytes_max / 2;
  if (!fd || !set_option(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, bytes) ||
      !set_option(fd.get(), SOL_PACKET, PACKET_VNET_HDR, one) ||
      !set_option(fd.get(), SOL_PACKET, PACKET_AUXDATA, one) ||
      !set_option(fd.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, one)) {
    return packet_error(errno);
  }
  return fd;
}

}  // namespace

HeldFrames::HeldFrames(Fd socket, LinkGate gate, int index)
    : socket_(std::move(socket)), gate_(std::move(gate)), index_(index), buffer_(kFrameMax) {}

Result<std::unique_ptr<HeldFrames>> HeldFrames::open(int space, int index, LinkGate::Ways ways,
                                                     int bytes_max) {
  MIGRATE_ASSIGN(LinkGate gate, LinkGate::open(space, index, ways));
  Fd socket;
  MIGRATE_TRY(in_network(space, [&]() -> Status {
    MIGRATE_ASSIGN(socket, open_packet_socket(bytes_max));
    return {};
  }));
  return std::unique_ptr<HeldFrames>(new HeldFrames(std::move(socket), std::move(gate), index));
}

Status HeldFrames::record(Gate gate) {
  static constexpr sock_filter kAll[] = {BPF_STMT(BPF_RET | BPF_K, kWhole)};
  static constexpr sock_filter kNone[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
  const HandshakeProgram handshakes = handshake_program(kWhole, 0);
  std::span<const sock_filter> program = kNone;
  if (gate == Gate::kClosed) program = kAll;
  if (gate == Gate::kNoHandshakes) program = handshakes;
  sock_fprog filter{};
  filter.len = static_cast<unsigned short>(program.size());
  filter.filter = const_cast<sock_filter*>(program.data());
  if (!set_option(socket_.get(), SOL_SOCKET, SO_ATTACH_FILTER, filter)) return packet_error(errno);
  if (bound_) return {};
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = index_;
  if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return packet_error(errno);
  }
  bound_ = true;
  return {};
}

Status HeldFrames::set(Gate gate) {
  if (gate == state_) return {};
  // Recording is on before the gate shuts, and off after it has opened.
  if (gate == Gate::kOpen) {
    MIGRATE_TRY(gate_.set(gate));
    state_ = gate;
    return record(gate);
  }
  MIGRATE_TRY(record(gate));
  Status shut = gate_.set(gate);
  if (shut) {
    state_ = gate;
  } else if (state_ == Gate::kOpen) {
    if (const Status off = record(Gate::kOpen); !off) return off;
    discard();
  }
  return shut;
}

bool HeldFrames::receive(Raw& raw) {
  sockaddr_ll from{};
  iovec parts[] = {{&raw.left, sizeof(raw.left)}, {buffer_.data(), buffer_.size()}};
  alignas(cmsghdr) char beside[CMSG_SPACE(sizeof(tpacket_auxdata))];
  for (;;) {
    msghdr message{};
    message.msg_name = &from;
    message.msg_namelen = sizeof(from);
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    message.msg_control = beside;
    message.msg_controllen = sizeof(beside);
    const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_TRUNC);
    if (got < 0) {
      // A kind of frame that cannot be described comes as EINVAL; an interface that went down left
      // its news.
      if (errno == EINVAL) ++dropped_;
      if (errno == EINVAL || errno == EINTR || errno == ENETDOWN) continue;
      return false;
    }
    raw.bytes = static_cast<std::size_t>(got) - std::min<std::size_t>(got, sizeof(raw.left));
    raw.ours = from.sll_pkttype != PACKET_OTHERHOST;
    raw.tag_protocol = 0;
    for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
      if (part->cmsg_level != SOL_PACKET || part->cmsg_type != PACKET_AUXDATA) continue;
      tpacket_auxdata more{};
      std::memcpy(&more, CMSG_DATA(part), sizeof(more));
      if ((more.tp_status & TP_STATUS_VLAN_VALID) == 0) continue;
      raw.tag = more.tp_vlan_tci;
      const bool named = (more.tp_status & TP_STATUS_VLAN_TPID_VALID) != 0;
      raw.tag_protocol = named ? more.tp_vlan_tpid : ETH_P_8021Q;
    }
    if (raw.bytes <= buffer_.size()) return true;
    ++dropped_;
  }
}

std::optional<std::vector<FrameBytes>> HeldFrames::finish(const Raw& raw) const {
  auto frames = finish_frame(raw.left, std::span(buffer_).first(raw.bytes));
  if (!frames || raw.tag_protocol == 0) return frames;
  for (FrameBytes& frame : *frames) insert_vlan_tag(frame, raw.tag_protocol, raw.tag);
  return frames;
}

std::optional<HeldFrames::Frame> HeldFrames::take() {
  Raw raw;
  while (finished_.empty()) {
    if (!receive(raw)) return std::nullopt;
    auto frames = finish(raw);
    if (!frames) {
      ++dropped_;
      continue;
    }
    for (FrameBytes& frame : *frames) finished_.push_back({std::move(frame), raw.ours});
  }
  Frame frame = std::move(finished_.front());
  finished_.pop_front();
  return frame;
}

std::size_t HeldFrames::pass_on(PortDelivery& port) {
  std::size_t count = 0;
  const auto send = [&](std::span<const std::byte> frame, const FrameOffload& left) {
    if (port.send(frame, left)) {
      ++count;
    } else {
      ++dropped_;
    }
  };
  for (; !finished_.empty(); finished_.pop_front()) send(finished_.front().bytes, {});
  for (Raw raw; receive(raw);) {
    if (raw.tag_protocol == 0) {
      send(std::span<const std::byte>(buffer_).first(raw.bytes), raw.left);
      continue;
    }
    const auto frames = finish(raw);
    if (!frames) ++dropped_;
    for (const FrameBytes& frame : frames.value_or(std::vector<FrameBytes>())) send(frame, {});
  }
  return count;
}

void HeldFrames::discard() {
  finished_.clear();
  for (Raw raw; receive(raw);) {
  }
}

std::uint64_t HeldFrames::dropped() {
  tpacket_stats now{};
  socklen_t size = sizeof(now);
  // Reading them sets them back.
  if (::getsockopt(socket_.get(), SOL_PACKET, PACKET_STATISTICS, &now, &size) == 0) {
    dropped_ += now.tp_drops;
  }
  return dropped_;
}

}  // namespace migrate::containers
