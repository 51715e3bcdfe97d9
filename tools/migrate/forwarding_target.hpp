// ForwardingTarget: a TargetGuest that is another one, with something done beside.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "migrate/guest.hpp"

namespace migrate::tool {

class ForwardingTarget : public TargetGuest {
 public:
  explicit ForwardingTarget(std::unique_ptr<TargetGuest> inner) : inner_(std::move(inner)) {}

  Status prepare(const GuestDescription& description) override {
    return inner_->prepare(description);
  }
  PageSink& pages() override { return inner_->pages(); }
  Status load_state(StateReader& reader) override { return inner_->load_state(reader); }
  Result<std::chrono::nanoseconds> rehearse_load() override { return inner_->rehearse_load(); }
  Status acquire() override { return inner_->acquire(); }
  Status yield() override { return inner_->yield(); }
  Status start(RunState state) override { return inner_->start(state); }
  void discard() override { inner_->discard(); }
  std::vector<FaultSource> fault_sources() override { return inner_->fault_sources(); }
  std::vector<int> vcpu_threads() override { return inner_->vcpu_threads(); }
  PacketSink* packet_sink() override { return inner_->packet_sink(); }

 protected:
  std::unique_ptr<TargetGuest> inner_;
};

}  // namespace migrate::tool
