#include "net-takeover/netlink.hpp"

#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace migrate::takeover {
namespace {

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

/// Reads a T at the beginning of `bytes`, which are as long as that.
template <typename T>
T read(std::span<const std::byte> bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

Error cut_off() {
  return make_errno_error(ErrorCode::kIo, EMSGSIZE, "the kernel's answer is longer than expected");
}

}  // namespace

NetlinkRequest::NetlinkRequest(std::uint16_t type, std::uint16_t flags,
                               std::span<const std::byte> body) {
  nlmsghdr header{};
  header.nlmsg_type = type;
  header.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags);
  header.nlmsg_seq = 1;
  append(bytes_of(header));
  append(body);
}

void NetlinkRequest::append(std::span<const std::byte> bytes) {
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  bytes_.resize(NLMSG_ALIGN(bytes_.size()));
}

void NetlinkRequest::attribute(std::uint16_t type, std::span<const std::byte> value) {
  rtattr head{};
  head.rta_type = type;
  head.rta_len = static_cast<std::uint16_t>(sizeof head + value.size());
  append(bytes_of(head));
  append(value);
}

void NetlinkRequest::attribute(std::uint16_t type, std::uint16_t value) {
  attribute(type, bytes_of(value));
}

void NetlinkRequest::attribute(std::uint16_t type, std::string_view text) {
  std::vector<std::byte> value(text.size() + 1);
  std::memcpy(value.data(), text.data(), text.size());
  attribute(type, value);
}

std::span<const std::byte> NetlinkRequest::bytes() {
  auto header = read<nlmsghdr>(bytes_);
  header.nlmsg_len = static_cast<std::uint32_t>(bytes_.size());
  std::memcpy(bytes_.data(), &header, sizeof header);
  return bytes_;
}

void for_each_attribute(
    std::span<const std::byte> bytes,
    const std::function<void(std::uint16_t, std::span<const std::byte>)>& take) {
  while (bytes.size() >= sizeof(rtattr)) {
    const auto head = read<rtattr>(bytes);
    if (head.rta_len < sizeof head || head.rta_len > bytes.size()) return;
    take(static_cast<std::uint16_t>(head.rta_type & NLA_TYPE_MASK),
         bytes.subspan(sizeof head, head.rta_len - sizeof head));
    const std::size_t step = RTA_ALIGN(head.rta_len);
    if (step >= bytes.size()) return;
    bytes = bytes.subspan(step);
  }
}

Result<Netlink> Netlink::open(std::size_t answer_bytes) {
  Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!fd) return make_errno_error(ErrorCode::kIo, errno, "cannot ask the kernel for interfaces");
  return Netlink(std::move(fd), answer_bytes);
}

Result<int> Netlink::ask(NetlinkRequest& request,
                         const std::function<void(std::span<const std::byte>)>& take) {
  const auto message = request.bytes();
  if (::send(fd_.get(), message.data(), message.size(), 0) < 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot ask the kernel about an interface");
  }
  std::vector<std::byte> buffer(answer_bytes_);
  // The kernel has answered within send(): only the reading of all of it is left.
  for (;;) {
    // With MSG_TRUNC it is the length of the whole, also of what had no room.
    const ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT | MSG_TRUNC);
    if (got < 0) {
      if (errno == EINTR) continue;
      return make_errno_error(ErrorCode::kIo, errno, "the kernel's answer cannot be read");
    }
    if (static_cast<std::size_t>(got) > buffer.size()) return cut_off();
    std::span<const std::byte> rest(buffer.data(), static_cast<std::size_t>(got));
    while (rest.size() >= sizeof(nlmsghdr)) {
      const auto header = read<nlmsghdr>(rest);
      if (header.nlmsg_len < sizeof header || header.nlmsg_len > rest.size()) return cut_off();
      const auto body = rest.subspan(sizeof header, header.nlmsg_len - sizeof header);
      if (header.nlmsg_type == NLMSG_ERROR && body.size() >= sizeof(nlmsgerr)) {
        return -read<nlmsgerr>(body).error;
      }
      if (take) take(body);
      rest = rest.subspan(std::min<std::size_t>(NLMSG_ALIGN(header.nlmsg_len), rest.size()));
    }
  }
}

}  // namespace migrate::takeover
