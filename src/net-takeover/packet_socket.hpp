// PacketSocket: sends whole Ethernet frames on one interface.
#pragma once

#include <cstddef>
#include <span>

#include "base/fd.hpp"
#include "migrate/result.hpp"
#include "net-takeover/link_facts.hpp"

namespace migrate::takeover {

/// Hears nothing. One thread at a time.
class PacketSocket {
 public:
  /// kPermission without CAP_NET_RAW, kUnsupported where the interface is no Ethernet or too small.
  static Result<PacketSocket> open(const LinkFacts& link);
  /// Does not wait: a queue that is full is an error. kNotFound when the interface has gone, or is
  /// down: one of the same name may have taken its place.
  [[nodiscard]] Status send(std::span<const std::byte> frame);

 private:
  PacketSocket(Fd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  Fd fd_;
  std::string name_;
};

}  // namespace migrate::takeover
