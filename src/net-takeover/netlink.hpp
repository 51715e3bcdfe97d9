// Netlink: one request to the kernel's routing netlink and its answer. What libmnl would do, for
// the two requests that are needed.
#pragma once

#include <linux/netlink.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::takeover {

class NetlinkRequest {
 public:
  /// `flags` beside NLM_F_REQUEST and NLM_F_ACK; `body` is the struct that goes with `type`.
  NetlinkRequest(std::uint16_t type, std::uint16_t flags, std::span<const std::byte> body);
  void attribute(std::uint16_t type, std::span<const std::byte> value);
  void attribute(std::uint16_t type, std::uint16_t value);
  void attribute(std::uint16_t type, std::string_view text);

  [[nodiscard]] std::span<const std::byte> bytes();

 private:
  void append(std::span<const std::byte> bytes);
  std::vector<std::byte> bytes_;
};

/// Calls `take(type, value)` for each attribute in `bytes`; stops at one that is cut off.
void for_each_attribute(
    std::span<const std::byte> bytes,
    const std::function<void(std::uint16_t type, std::span<const std::byte> value)>& take);

/// Used by one thread.
class Netlink {
 public:
  /// What the kernel says of one interface is a few KiB, more with many virtual functions.
  static constexpr std::size_t kAnswerBytes = 64 * 1024;
  static Result<Netlink> open(std::size_t answer_bytes = kAnswerBytes);
  /// Sends it and reads the answer; `take`, if any, gets the body of each message but the last. The
  /// kernel's refusal is an errno, 0 for none; an error of this socket is an Error, and so is an
  /// answer longer than expected.
  Result<int> ask(NetlinkRequest& request,
                  const std::function<void(std::span<const std::byte>)>& take = nullptr);

 private:
  Netlink(Fd fd, std::size_t answer_bytes) : fd_(std::move(fd)), answer_bytes_(answer_bytes) {}
  Fd fd_;
  std::size_t answer_bytes_;
};

}  // namespace migrate::takeover
