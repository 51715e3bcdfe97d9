// InProcessNetwork: channels between two threads of one process that fail as planned, byte-exact.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <vector>

#include "migrate/channel.hpp"
#include "tests/support/link_plan.hpp"

namespace migrate::test {

class LinkState;

/// A link with a source side (connectors) and a target side (acceptors). Behaves as sockets do: a
/// connect succeeds before it is accepted, while an acceptor exists; send() returns when the bytes
/// are in the window. Any thread may call any method; what it made may outlive it.
class InProcessNetwork {
 public:
  explicit InProcessNetwork(LinkPlan plan = {});
  ~InProcessNetwork();
  InProcessNetwork(const InProcessNetwork&) = delete;
  InProcessNetwork& operator=(const InProcessNetwork&) = delete;

  [[nodiscard]] std::unique_ptr<Connector> connector();
  [[nodiscard]] std::unique_ptr<Acceptor> acceptor();

  /// As planned faults of Scope::kLink, now. Connects go on being accepted: see below.
  void cut_all(InFlight in_flight = InFlight::kLost);
  void stall_all();
  void stall(std::size_t lane);
  /// What was stalled moves again.
  void release_all();
  /// Connects are refused until allow_connections().
  void refuse_connections();
  void allow_connections();

  /// Channels connected so far, the dead ones included.
  [[nodiscard]] std::size_t lanes() const;
  /// Bytes sent so far, by lane.
  [[nodiscard]] std::vector<LaneBytes> bytes() const;
  /// Planned faults that have happened.
  [[nodiscard]] std::size_t faults_fired() const;
  /// Connects refused so far.
  [[nodiscard]] std::size_t refused() const;
  /// False when there are not that many in time.
  bool wait_for_lanes(std::size_t count, std::chrono::nanoseconds timeout) const;
  bool wait_for_refused(std::size_t count, std::chrono::nanoseconds timeout) const;
  [[nodiscard]] std::string plan_text() const;

 private:
  class LinkChannel;
  class LinkConnector;
  class LinkAcceptor;
  std::shared_ptr<LinkState> link_;
};

}  // namespace migrate::test
