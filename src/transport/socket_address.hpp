// Socket addresses: from names, and to the text that messages show.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/event_fd.hpp"
#include "migrate/result.hpp"
#include "transport/readiness.hpp"

namespace migrate {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = sizeof(sockaddr_storage);
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  [[nodiscard]] sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  [[nodiscard]] int family() const { return storage.ss_family; }
  [[nodiscard]] bool is_ip() const { return family() == AF_INET || family() == AF_INET6; }
  /// An IP address that never leaves this host.
  [[nodiscard]] bool is_loopback() const;
};

/// "10.0.0.2:4444", "[fe80::1%eth0]:4444", "unix:/run/x.sock", "vsock:3:4444", or "" for what has
/// no address. An IPv4 address inside an IPv6 one is shown as IPv4.
[[nodiscard]] std::string to_text(const SocketAddress& address);
/// Address of the other end, or of this one, of a connected socket; empty text where unknown.
[[nodiscard]] std::string peer_text(int fd);
[[nodiscard]] std::string local_text(int fd);
/// "host:port", brackets around an IPv6 address.
[[nodiscard]] std::string host_and_port(const std::string& host, const std::string& port);

enum class AddressUse : std::uint8_t { kConnect, kListen };

/// The addresses of `host`, in the resolver's order. Names are looked up on a thread of their own,
/// which is left behind when the deadline passes or `interrupt` is raised: the C library cannot be
/// interrupted, but gives up by itself.
[[nodiscard]] Result<std::vector<SocketAddress>> resolve(const std::string& host,
                                                         const std::string& port, AddressUse use,
                                                         const EventFd& interrupt,
                                                         SteadyDeadline deadline);

/// The address of a UNIX socket; kInvalidArgument when the path does not fit.
[[nodiscard]] Result<SocketAddress> unix_address(const std::string& path);
[[nodiscard]] SocketAddress vsock_address(std::uint32_t cid, std::uint32_t port);

}  // namespace migrate
