// VmmGuest: a guest of the reference VMM, hosted by the command.
#pragma once

#include <memory>

#include "adapters/kvm/vmm/migration_hooks.hpp"
#include "adapters/kvm/vmm/vmm.hpp"
#include "base/mutex.hpp"
#include "hosted_guest.hpp"

namespace migrate::tool {

class VmmGuest final : public HostedGuest {
 public:
  /// A guest that is here.
  explicit VmmGuest(std::shared_ptr<vmm::Vmm> vmm);
  /// A guest that is on its way: only facts() is known until set_vmm().
  explicit VmmGuest(GuestFacts facts) : facts_(std::move(facts)) {}
  void set_vmm(std::shared_ptr<vmm::Vmm> vmm) MIGRATE_EXCLUDES(mutex_);

  GuestFacts facts() const override { return facts_; }
  GuestState state() const override;
  std::optional<Error> failure() const override;
  int ended_fd() const override;
  Status pause() override;
  Status resume() override;
  void stop() override;
  Result<Json> stats() const override;
  Result<ConsoleView> console() const override;
  Result<std::unique_ptr<SourceGuest>> make_source() override;

 private:
  [[nodiscard]] std::shared_ptr<vmm::Vmm> vmm() const MIGRATE_EXCLUDES(mutex_);

  const GuestFacts facts_;
  mutable Mutex mutex_;
  std::shared_ptr<vmm::Vmm> vmm_ MIGRATE_GUARDED_BY(mutex_);
  std::unique_ptr<vmm::VmmSourceHooks> hooks_ MIGRATE_GUARDED_BY(mutex_);
};

[[nodiscard]] GuestFacts facts_of(const vmm::VmmConfig& config);

/// The body of GET /v1/stats.
[[nodiscard]] Json to_json(const vmm::GuestStats& stats);

}  // namespace migrate::tool
