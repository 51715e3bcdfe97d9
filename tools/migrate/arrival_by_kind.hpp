// ArrivalByKind: takes whatever kind of guest comes, of those that the operator accepts.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "arrival.hpp"

namespace migrate::tool {

class ArrivalByKind final : public Arrival {
 public:
  /// Those that are not accepted are nullptr; one is there.
  ArrivalByKind(std::unique_ptr<Arrival> vm, std::unique_ptr<Arrival> container)
      : vm_(std::move(vm)), container_(std::move(container)) {}

  std::unique_ptr<TargetGuest> make_target(std::function<void()> on_discard) override;
  Result<std::unique_ptr<HostedGuest>> make_guest(const GuestDescription& description,
                                                  const std::string& name) override;
  std::vector<vmm::NetConfig> cards(const GuestDescription& description) const override;
  void started() override { chosen_->started(); }
  void memory_complete() override { chosen_->memory_complete(); }

 private:
  [[nodiscard]] Arrival* of_kind(GuestKind kind) const {
    return kind == GuestKind::kVm ? vm_.get() : container_.get();
  }

  const std::unique_ptr<Arrival> vm_;
  const std::unique_ptr<Arrival> container_;
  Arrival* chosen_ = nullptr;
};

}  // namespace migrate::tool
