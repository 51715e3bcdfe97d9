#include "container_arrival.hpp"

#include <utility>

#include "container_options.hpp"
#include "forwarding_target.hpp"

namespace migrate::tool {
namespace {

class TellingTarget final : public ForwardingTarget {
 public:
  TellingTarget(std::unique_ptr<TargetGuest> inner, std::function<void()> on_discard)
      : ForwardingTarget(std::move(inner)), on_discard_(std::move(on_discard)) {}
  void discard() override {
    inner_->discard();
    on_discard_();
  }

 private:
  const std::function<void()> on_discard_;
};

std::uint64_t bytes_of(const GuestDescription& description) {
  std::uint64_t bytes = 0;
  for (const Region& region : description.regions) bytes += region.range.bytes();
  return bytes;
}

}  // namespace

Result<std::unique_ptr<ContainerArrival>> ContainerArrival::create(
    const ContainerTargetOptions& options) {
  MIGRATE_ASSIGN(auto target, make_container_target(options));
  return std::unique_ptr<ContainerArrival>(new ContainerArrival(options, std::move(target)));
}

std::unique_ptr<TargetGuest> ContainerArrival::make_target(std::function<void()> on_discard) {
  return std::make_unique<TellingTarget>(std::move(target_), std::move(on_discard));
}

Result<std::unique_ptr<HostedGuest>> ContainerArrival::make_guest(
    const GuestDescription& description, const std::string& name) {
  GuestFacts facts;
  facts.name = name;
  facts.vcpus = description.vcpus;
  facts.memory_bytes = bytes_of(description);
  facts.workload = "process tree";
  ContainerSourceOptions leaving;
  leaving.name = name;
  leaving.criu = options_.criu;
  leaving.tcp = options_.tcp;
  leaving.link = options_.link;
  leaving.folder = options_.folder;
  leaving.tracker = best_container_tracker();
  auto guest = std::make_unique<ContainerGuest>(std::move(facts), std::move(leaving));
  guest_ = guest.get();
  return std::unique_ptr<HostedGuest>(std::move(guest));
}

void ContainerArrival::started() { guest_->set_tree(*tree_); }

void ContainerArrival::memory_complete() { tree_->memory_complete(); }

}  // namespace migrate::tool
