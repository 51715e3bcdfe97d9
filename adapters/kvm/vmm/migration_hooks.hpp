// The glue between the VMM and the KVM adapter: what a VMM writes to make its guests migratable.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "adapters/kvm/vmm/machine_section.hpp"
#include "adapters/kvm/vmm/vmm.hpp"
#include "base/mutex.hpp"
#include "migrate/kvm.hpp"

namespace migrate::vmm {

/// What make_kvm_source() has to know of a Vmm beside its hooks.
[[nodiscard]] KvmSourceOptions source_options(const Vmm& vmm);

/// Lets a Vmm leave. Pass to make_kvm_source(vmm->kvm_vm(), hooks, source_options(*vmm)); must
/// outlive the source.
class VmmSourceHooks final : public KvmSourceHooks, private PacketSource {
 public:
  explicit VmmSourceHooks(std::shared_ptr<Vmm> vmm) : vmm_(std::move(vmm)) {}

  std::string name() override;
  Result<std::vector<GuestDescription::Property>> properties() override;
  RunState run_state() override;
  Result<PauseResult> pause() override;
  Status resume() override;
  Status save_devices(StateWriter& writer) override;
  Status throttle(std::uint32_t vcpu, double share) override;
  Status relinquish() override;
  Status reclaim() override;
  Status release() override;
  Status first_pages(PageBitmap& pages) override;
  PacketSource* waiting_packets() override;
  void note(std::string_view text) override;

 private:
  // PacketSource
  Result<std::vector<GuestFrame>> take_waiting(std::size_t frames_max,
                                               std::size_t bytes_max) override;
  void give_back(std::vector<GuestFrame> frames) override;

  std::shared_ptr<Vmm> vmm_;
};

/// Makes a Vmm from a description. Pass to make_kvm_target(); must outlive the target.
class VmmTargetHooks final : public KvmTargetHooks, private PacketSink {
 public:
  explicit VmmTargetHooks(ArrivalConfig host = {}) : host_(std::move(host)) {}

  Result<KvmVm> build(const GuestDescription& description, const KvmMachine& machine) override;
  Status load_device(const SectionInfo& section, StateReader& reader) override;
  Status acquire() override;
  Status yield() override;
  Status start(RunState state) override;
  void discard() override;
  std::vector<int> vcpu_threads() override;
  PacketSink* packet_sink() override;
  void note(std::string_view text) override;

  /// The guest, from build() on; nullptr before and after discard(). Any thread.
  [[nodiscard]] std::shared_ptr<Vmm> vmm() const MIGRATE_EXCLUDES(mutex_);

 private:
  // PacketSink
  void source_stands() override;
  bool deliver(const GuestFrame& frame) override;

  const ArrivalConfig host_;
  mutable Mutex mutex_;
  std::shared_ptr<Vmm> vmm_ MIGRATE_GUARDED_BY(mutex_);
};

}  // namespace migrate::vmm
