// Links that a benchmark moves a guest or a pump over: loopback, a shaped pair of network devices
// between two namespaces, and TLS on either.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "migrate/channel.hpp"

namespace migrate::bench {

/// One meeting of two sides, both in this process.
struct Ends {
  std::unique_ptr<Acceptor> acceptor;
  std::unique_ptr<Connector> connector;
};

class Link {
 public:
  virtual ~Link() = default;
  /// New ends, for one migration. Gives up when there are none to be had.
  [[nodiscard]] virtual Ends open() const = 0;
  [[nodiscard]] virtual std::string name() const = 0;
  /// What it is shaped to, in bytes a second; 0: as fast as the machine is.
  [[nodiscard]] virtual double bytes_per_s() const = 0;
};

[[nodiscard]] std::unique_ptr<Link> make_loopback_link();

/// A pair of network devices in two namespaces without names, each side's sending shaped to
/// `bytes_per_s` by a token bucket. Needs root, ip and tc. All of it goes with the link, also when
/// the process is killed.
[[nodiscard]] std::unique_ptr<Link> make_shaped_link(double bytes_per_s);

/// `inner`, which must outlive it, with TLS by a key of its own.
[[nodiscard]] std::unique_ptr<Link> make_tls_link(const Link& inner);

/// Fills all of `parts`, which are used up, from a channel whose other end is in this process;
/// gives up when it is closed or silent for 30 s.
void receive_whole(Channel& channel, std::span<iovec> parts);

}  // namespace migrate::bench
