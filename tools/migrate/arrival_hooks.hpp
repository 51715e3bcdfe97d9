// ArrivalHooks: the VMM's hooks, which also tell when the guest's memory is dropped again.
#pragma once

#include <functional>

#include "adapters/kvm/vmm/migration_hooks.hpp"

namespace migrate::tool {

class ArrivalHooks final : public KvmTargetHooks {
 public:
  /// `on_discard` is called from the migration's thread, when nothing of the guest is left here.
  ArrivalHooks(vmm::ArrivalConfig guest, std::function<void()> on_discard)
      : vmm_(std::move(guest)), on_discard_(std::move(on_discard)) {}

  Result<KvmVm> build(const GuestDescription& description, const KvmMachine& machine) override {
    return vmm_.build(description, machine);
  }
  Status load_device(const SectionInfo& section, StateReader& reader) override {
    return vmm_.load_device(section, reader);
  }
  Status acquire() override { return vmm_.acquire(); }
  Status yield() override { return vmm_.yield(); }
  Status start(RunState state) override { return vmm_.start(state); }
  void discard() override {
    vmm_.discard();
    on_discard_();
  }
  std::vector<int> vcpu_threads() override { return vmm_.vcpu_threads(); }
  PacketSink* packet_sink() override { return vmm_.packet_sink(); }
  void note(std::string_view text) override { vmm_.note(text); }

  [[nodiscard]] std::shared_ptr<vmm::Vmm> vmm() const { return vmm_.vmm(); }

 private:
  vmm::VmmTargetHooks vmm_;
  std::function<void()> on_discard_;
};

}  // namespace migrate::tool
