#include "adapters/containers/network/route_netlink.hpp"

#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <cerrno>

namespace migrate::containers {
namespace {

/// The kernel answers within send(); what is left is to read it.
constexpr timeval kAnswerTime{5, 0};
/// What the kernel says of one interface.
constexpr std::size_t kAnswerBytes = 32 * 1024;

}  // namespace

void NetlinkMessage::append(const void* data, std::size_t size) {
  const char* from = static_cast<const char*>(data);
  bytes_.insert(bytes_.end(), from, from + size);
  bytes_.resize(NLMSG_ALIGN(bytes_.size()));
}

void NetlinkMessage::add(std::uint16_t type, const void* value, std::size_t size) {
  nlattr attribute{};
  attribute.nla_type = type;
  attribute.nla_len = static_cast<std::uint16_t>(sizeof(attribute) + size);
  append(&attribute, sizeof(attribute));
  append(value, size);
}

void NetlinkMessage::add_text(std::uint16_t type, std::string_view text) {
  std::vector<char> value(text.begin(), text.end());
  value.push_back('\0');
  add(type, value.data(), value.size());
}

std::size_t NetlinkMessage::begin_nest(std::uint16_t type) {
  const std::size_t begin = bytes_.size();
  add(static_cast<std::uint16_t>(type | NLA_F_NESTED), nullptr, 0);
  return begin;
}

void NetlinkMessage::end_nest(std::size_t begin) {
  const auto length = static_cast<std::uint16_t>(bytes_.size() - begin);
  std::memcpy(bytes_.data() + begin + offsetof(nlattr, nla_len), &length, sizeof(length));
}

std::span<const char> NetlinkMessage::bytes() {
  const auto length = static_cast<std::uint32_t>(bytes_.size());
  std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_len), &length, sizeof(length));
  return bytes_;
}

void for_each_netlink_attribute(
    std::span<const char> bytes,
    const std::function<void(std::uint16_t, std::span<const char>)>& take) {
  while (bytes.size() >= sizeof(nlattr)) {
    nlattr attribute{};
    std::memcpy(&attribute, bytes.data(), sizeof(attribute));
    if (attribute.nla_len < sizeof(attribute) || attribute.nla_len > bytes.size()) return;
    take(static_cast<std::uint16_t>(attribute.nla_type & NLA_TYPE_MASK),
         bytes.subspan(sizeof(attribute), attribute.nla_len - sizeof(attribute)));
    const std::size_t step = NLA_ALIGN(attribute.nla_len);
    if (step >= bytes.size()) return;
    bytes = bytes.subspan(step);
  }
}

Result<RouteNetlink> RouteNetlink::open() {
  Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!fd) return make_errno_error(ErrorCode::kIo, errno, "cannot ask the kernel for interfaces");
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerTime, sizeof(kAnswerTime));
  return RouteNetlink(std::move(fd));
}

Result<int> RouteNetlink::ask(NetlinkMessage message,
                              const std::function<void(std::span<const char>)>& take) {
  const std::span<const char> bytes = message.bytes();
  nlmsghdr header{};
  std::memcpy(&header, bytes.data(), sizeof(header));
  header.nlmsg_flags |= NLM_F_ACK;
  std::vector<char> request(bytes.begin(), bytes.end());
  std::memcpy(request.data(), &header, sizeof(header));
  if (::send(fd_.get(), request.data(), request.size(), 0) < 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot ask the kernel about an interface");
  }
  alignas(nlmsghdr) std::array<char, kAnswerBytes> buffer;
  for (;;) {
    const ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return make_errno_error(ErrorCode::kIo, errno, "the kernel does not answer about interfaces");
    }
    auto left = static_cast<unsigned>(got);
    for (const auto* part = reinterpret_cast<const nlmsghdr*>(buffer.data()); NLMSG_OK(part, left);
         part = NLMSG_NEXT(part, left)) {
      if (part->nlmsg_type == NLMSG_ERROR) {
        return -reinterpret_cast<const nlmsgerr*>(NLMSG_DATA(part))->error;
      }
      if (take) {
        take({reinterpret_cast<const char*>(NLMSG_DATA(part)), part->nlmsg_len - NLMSG_HDRLEN});
      }
    }
  }
}

}  // namespace migrate::containers
