#include "tests/support/faulty_link.hpp"

#include <utility>

#include "tests/support/link_state.hpp"

namespace migrate::test {

class InProcessNetwork::LinkChannel final : public Channel {
 public:
  LinkChannel(std::shared_ptr<LinkState> link, std::shared_ptr<Lane> lane, Direction sends)
      : link_(std::move(link)), lane_(std::move(lane)) {
    end_.sends = sends;
  }
  ~LinkChannel() override { link_->leave(*lane_, end_); }

  Status send(std::span<const iovec> parts, std::chrono::nanoseconds idle_max) override {
    return link_->send(*lane_, end_, parts, idle_max);
  }
  Result<std::size_t> receive(std::span<const iovec> parts,
                              std::chrono::nanoseconds idle_max) override {
    return link_->receive(*lane_, end_, parts, idle_max);
  }
  void interrupt() noexcept override { link_->set_flag(end_.interrupted, true, lane_->changed); }
  void resume_after_interrupt() noexcept override {
    link_->set_flag(end_.interrupted, false, lane_->changed);
  }
  void shutdown() noexcept override { link_->leave(*lane_, end_); }
  [[nodiscard]] std::size_t unsent_bytes() const override {
    return link_->held(*lane_, end_.sends);
  }
  [[nodiscard]] bool has_room(std::size_t bytes) const override {
    return link_->has_room(*lane_, end_.sends, bytes);
  }
  [[nodiscard]] std::string peer() const override {
    return "in-process lane " + std::to_string(lane_->number);
  }
  [[nodiscard]] std::string peer_identity() const override { return {}; }

 private:
  const std::shared_ptr<LinkState> link_;
  const std::shared_ptr<Lane> lane_;
  End end_;
};

class InProcessNetwork::LinkConnector final : public Connector {
 public:
  explicit LinkConnector(std::shared_ptr<LinkState> link) : link_(std::move(link)) {}
  Result<std::unique_ptr<Channel>> connect(std::chrono::nanoseconds /*timeout*/) override {
    MIGRATE_ASSIGN(auto lane, link_->connect(interrupted_));
    return std::unique_ptr<Channel>(
        std::make_unique<LinkChannel>(link_, std::move(lane), Direction::kToTarget));
  }
  void set_session(std::string_view /*session*/) override {}
  void interrupt() noexcept override {
    link_->set_flag(interrupted_, true, link_->connections_changed());
  }
  void resume_after_interrupt() noexcept override {
    link_->set_flag(interrupted_, false, link_->connections_changed());
  }
  [[nodiscard]] std::string peer() const override { return "in-process target"; }

 private:
  const std::shared_ptr<LinkState> link_;
  bool interrupted_ = false;  // Guarded by the link's mutex.
};

class InProcessNetwork::LinkAcceptor final : public Acceptor {
 public:
  explicit LinkAcceptor(std::shared_ptr<LinkState> link) : link_(std::move(link)) {
    link_->add_acceptor();
  }
  ~LinkAcceptor() override { link_->remove_acceptor(); }
  Result<std::unique_ptr<Channel>> accept(std::chrono::nanoseconds timeout) override {
    MIGRATE_ASSIGN(auto lane, link_->accept(interrupted_, timeout));
    return std::unique_ptr<Channel>(
        std::make_unique<LinkChannel>(link_, std::move(lane), Direction::kToSource));
  }
  void interrupt() noexcept override {
    link_->set_flag(interrupted_, true, link_->connections_changed());
  }
  [[nodiscard]] std::string address() const override { return "in-process target"; }

 private:
  const std::shared_ptr<LinkState> link_;
  bool interrupted_ = false;  // Guarded by the link's mutex.
};

InProcessNetwork::InProcessNetwork(LinkPlan plan)
    : link_(std::make_shared<LinkState>(std::move(plan))) {}
InProcessNetwork::~InProcessNetwork() = default;

std::unique_ptr<Connector> InProcessNetwork::connector() {
  return std::make_unique<LinkConnector>(link_);
}
std::unique_ptr<Acceptor> InProcessNetwork::acceptor() {
  return std::make_unique<LinkAcceptor>(link_);
}
void InProcessNetwork::cut_all(InFlight in_flight) { link_->cut_all(in_flight); }
void InProcessNetwork::stall_all() { link_->stall_all(); }
void InProcessNetwork::stall(std::size_t lane) { link_->stall_lane(lane); }
void InProcessNetwork::release_all() { link_->release_all(); }
void InProcessNetwork::refuse_connections() { link_->refuse(true); }
void InProcessNetwork::allow_connections() { link_->refuse(false); }
std::size_t InProcessNetwork::lanes() const { return link_->bytes().size(); }
std::vector<LaneBytes> InProcessNetwork::bytes() const { return link_->bytes(); }
std::size_t InProcessNetwork::faults_fired() const { return link_->faults_fired(); }
std::size_t InProcessNetwork::refused() const { return link_->refused(); }
bool InProcessNetwork::wait_for_lanes(std::size_t count, std::chrono::nanoseconds timeout) const {
  return link_->wait_for_lanes(count, timeout);
}
bool InProcessNetwork::wait_for_refused(std::size_t count, std::chrono::nanoseconds timeout) const {
  return link_->wait_for_refused(count, timeout);
}
std::string InProcessNetwork::plan_text() const { return link_->plan().to_text(); }

}  // namespace migrate::test
