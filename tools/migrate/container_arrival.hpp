// ContainerArrival: a process tree on its way here.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "arrival.hpp"
#include "container_guest.hpp"
#include "migrate/containers.hpp"

namespace migrate::tool {

class ContainerArrival final : public Arrival {
 public:
  /// kUnsupported where this host cannot take one.
  static Result<std::unique_ptr<ContainerArrival>> create(const ContainerTargetOptions& options);

  std::unique_ptr<TargetGuest> make_target(std::function<void()> on_discard) override;
  Result<std::unique_ptr<HostedGuest>> make_guest(const GuestDescription& description,
                                                  const std::string& name) override;
  std::vector<vmm::NetConfig> cards(const GuestDescription&) const override { return {}; }
  void started() override;
  void memory_complete() override;

 private:
  ContainerArrival(ContainerTargetOptions options, std::unique_ptr<ContainerTarget> target)
      : options_(std::move(options)), target_(std::move(target)), tree_(target_.get()) {}

  const ContainerTargetOptions options_;
  std::unique_ptr<ContainerTarget> target_;  ///< Until make_target().
  ContainerTarget* const tree_;              ///< Incoming's or Restore's then.
  ContainerGuest* guest_ = nullptr;          ///< The host's.
};

}  // namespace migrate::tool
