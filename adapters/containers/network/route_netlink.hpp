// RouteNetlink: requests about interfaces to the kernel of one network namespace.
#pragma once

#include <linux/netlink.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// One message: header, the struct that goes with its type, attributes.
class NetlinkMessage {
 public:
  template <typename Body>
  NetlinkMessage(std::uint16_t type, int flags, const Body& body) {
    nlmsghdr header{};
    header.nlmsg_type = type;
    header.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
    append(&header, sizeof(header));
    append(&body, sizeof(body));
  }
  void add(std::uint16_t type, const void* value, std::size_t size);
  void add_text(std::uint16_t type, std::string_view text);
  /// Attributes until end_nest() belong to this one. Gives what end_nest() wants.
  std::size_t begin_nest(std::uint16_t type);
  void end_nest(std::size_t begin);
  [[nodiscard]] std::span<const char> bytes();

 private:
  void append(const void* data, std::size_t size);
  std::vector<char> bytes_;
};

/// Calls `take(type, value)` for each attribute in `bytes`; stops at one that is cut off.
void for_each_netlink_attribute(
    std::span<const char> bytes,
    const std::function<void(std::uint16_t type, std::span<const char> value)>& take);

/// One thread at a time.
class RouteNetlink {
 public:
  /// In the network namespace of the thread that calls.
  static Result<RouteNetlink> open();
  /// Sends it with NLM_F_ACK and waits for what the kernel says: 0 or an errno; `take` gets the
  /// body of what comes before. An error is this socket's.
  Result<int> ask(NetlinkMessage message,
                  const std::function<void(std::span<const char> body)>& take = nullptr);
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  explicit RouteNetlink(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace migrate::containers
