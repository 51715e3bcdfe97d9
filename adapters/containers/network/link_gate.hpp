// LinkGate: keeps what comes in on an interface from its kernel's IP, by a filter of traffic
// control.
#pragma once

#include <linux/filter.h>

#include <array>
#include <cstdint>
#include <vector>

#include "adapters/containers/network/route_netlink.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

enum class Gate : std::uint8_t {
  kOpen,
  kNoHandshakes,  ///< TCP segments that open a connection do not get in.
  kClosed,
};

/// How a gate is opened with one send(2) on one descriptor, for who must not do more.
struct GateUndo {
  int socket = -1;  ///< Stays the gate's.
  std::vector<char> message;
};

/// Packet sockets see what a closed gate keeps out. It stays as it is should this process end, and
/// this object: what is not opened stays closed. One thread.
class LinkGate {
 public:
  enum class Ways : std::uint8_t {
    kIn,
    /// A closed gate lets nothing out either: a socket that stands, in repair mode or not, still
    /// repeats what was not acknowledged, and its peer would take that for the word of the one that
    /// goes on elsewhere.
    kBoth,
  };
  /// Of an interface of the network namespace of which `space` is a descriptor. Touches nothing.
  static Result<LinkGate> open(int space, int index, Ways ways = Ways::kIn);

  /// From one to another nothing gets through that neither lets pass. kUnsupported where the kernel
  /// has no such filters, or the interface's are another program's.
  Status set(Gate gate);
  /// Opens it, whatever it is then. Valid before set(), too; then it is as of an interface without
  /// filters of others.
  [[nodiscard]] GateUndo undo() const;

 private:
  LinkGate(RouteNetlink route, int index, Ways ways)
      : route_(std::move(route)), index_(index), ways_(ways) {}
  Status attach();
  Status put_filter(std::uint32_t parent, Gate gate);
  Status remove_filter(std::uint32_t parent);
  RouteNetlink route_;
  int index_;
  Ways ways_;
  bool others_ = false;  ///< The interface had a place for filters already.
  Gate gate_ = Gate::kOpen;
};

/// Returns `hold` for the Ethernet frame of a TCP segment that opens a connection (SYN without ACK,
/// by IPv4, or by IPv6 without further headers), otherwise `pass`.
using HandshakeProgram = std::array<sock_filter, 18>;
[[nodiscard]] HandshakeProgram handshake_program(std::uint32_t hold, std::uint32_t pass);

}  // namespace migrate::containers
