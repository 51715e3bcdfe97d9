// VmArrival: a guest of the reference VMM on its way here.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "arrival.hpp"
#include "arrival_hooks.hpp"
#include "base/fd.hpp"
#include "vmm_guest.hpp"

namespace migrate::tool {

class VmArrival final : public Arrival {
 public:
  /// kUnsupported without a usable /dev/kvm.
  static Result<std::unique_ptr<VmArrival>> create(vmm::ArrivalConfig config);

  std::unique_ptr<TargetGuest> make_target(std::function<void()> on_discard) override;
  Result<std::unique_ptr<HostedGuest>> make_guest(const GuestDescription& description,
                                                  const std::string& name) override;
  std::vector<vmm::NetConfig> cards(const GuestDescription& description) const override;
  void started() override;
  void memory_complete() override {}

 private:
  VmArrival(vmm::ArrivalConfig config, Fd kvm) : config_(std::move(config)), kvm_(std::move(kvm)) {}

  const vmm::ArrivalConfig config_;
  const Fd kvm_;
  std::unique_ptr<ArrivalHooks> hooks_;
  VmmGuest* guest_ = nullptr;  ///< The host's.
};

}  // namespace migrate::tool
