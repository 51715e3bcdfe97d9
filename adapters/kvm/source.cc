// The guest at the source: what the adapter knows of KVM and the VMM's hooks, joined.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "adapters/kvm/cpu_model.hpp"
#include "adapters/kvm/guest_memory.hpp"
#include "adapters/kvm/machine.hpp"
#include "adapters/kvm/msrs.hpp"
#include "adapters/kvm/parallel.hpp"
#include "adapters/kvm/state_codec.hpp"
#include "adapters/kvm/tracking.hpp"
#include "migrate/kvm.hpp"

namespace migrate {
namespace kvm {
namespace {

class KvmSource final : public SourceGuest {
 public:
  /// `memory` is of `vm`, and what `tracking` was made of.
  KvmSource(KvmVm vm, KvmSourceHooks& hooks, std::unique_ptr<KvmPageSource> memory,
            Tracking tracking)
      : vm_(std::move(vm)),
        hooks_(hooks),
        memory_(std::move(memory)),
        tracking_(std::move(tracking)),
        caps_(vcpu_caps(vm_.vm_fd, vm_.irqchip)),
        vcpus_(vm_.vcpu_fds.size()) {
    enable_whole_events(vm_.vm_fd, caps_);
  }

  Result<GuestDescription> describe() override;
  PageSource& pages() override {
    if (tracking_.pages != nullptr) return *tracking_.pages;
    return *memory_;
  }
  DirtyTracker& tracker() override { return *tracking_.tracker; }
  RunState run_state() override { return hooks_.run_state(); }
  Result<PauseResult> pause() override;
  std::optional<SwitchoverCost> expected_cost() override { return std::nullopt; }
  Status resume() override;
  Status save_state(StateWriter& writer) override;
  Status throttle(std::uint32_t vcpu, double share) override {
    return hooks_.throttle(vcpu, share);
  }
  Status relinquish() override { return hooks_.relinquish(); }
  /// Its vCPUs are threads of this process, and end with it.
  void committing() override {}
  Status reclaim() override { return hooks_.reclaim(); }
  Status release() override { return hooks_.release(); }
  Status first_pages(PageBitmap& pages) override { return hooks_.first_pages(pages); }
  Status release_pages(const RegionId& region, PageRange range) override {
    return memory_->release(region, range);
  }
  PacketSource* waiting_packets() override { return hooks_.waiting_packets(); }

 private:
  Result<KvmCpuModel> model_of_running_guest();
  Status learn_model();
  Status capture();
  Status capture_vcpu(std::size_t i, std::span<const Part> parts);

  KvmVm vm_;
  KvmSourceHooks& hooks_;
  std::unique_ptr<KvmPageSource> memory_;  // Before what reads through it.
  Tracking tracking_;
  VcpuCaps caps_;
  bool stands_ = false;  ///< Paused by us, no vCPU in KVM_RUN.
  CpuModel model_;
  VmState vm_state_;
  std::vector<VcpuState> vcpus_;
};

/// KVM answers questions about a vCPU only while it does not run.
Result<KvmCpuModel> KvmSource::model_of_running_guest() {
  MIGRATE_ASSIGN(const PauseResult paused, pause());
  Result<KvmCpuModel> model = capture_cpu_model(vm_);
  if (paused.before == RunState::kRunning) MIGRATE_TRY(resume());
  return model;
}

Status KvmSource::learn_model() {
  if (!model_.vcpus.empty()) return {};
  if (vm_.cpu_model.empty()) {
    MIGRATE_ASSIGN(vm_.cpu_model, model_of_running_guest());
  }
  MIGRATE_ASSIGN(model_, decode_cpu_model(vm_.cpu_model.bytes));
  if (model_.vcpus.size() != vm_.vcpu_fds.size()) {
    return make_error(ErrorCode::kInvalidArgument, "the CPU model given is another VM's");
  }
  if (!model_.unreadable.empty()) {
    hooks_.note("these MSRs cannot be read and do not move with the guest: " +
                msr_list(model_.unreadable));
  }
  for (VcpuState& vcpu : vcpus_) reserve(vcpu, caps_, model_.msrs.size());
  return {};
}

Result<GuestDescription> KvmSource::describe() {
  MIGRATE_TRY(learn_model());
  GuestDescription description;
  description.kind = GuestKind::kVm;
  description.name = hooks_.name();
  description.vcpus = static_cast<std::uint32_t>(vm_.vcpu_fds.size());
  MIGRATE_ASSIGN(description.regions, memory_->regions());
  description.properties.push_back(machine_property(vm_, model_.tsc_khz));
  description.properties.push_back(
      {{std::string(kCpuProperty), kCpuVersion, true}, vm_.cpu_model.bytes});
  MIGRATE_ASSIGN(auto more, hooks_.properties());
  for (auto& property : more) description.properties.push_back(std::move(property));
  return description;
}

Result<PauseResult> KvmSource::pause() {
  MIGRATE_ASSIGN(const PauseResult result, hooks_.pause());
  stands_ = true;
  return result;
}

Status KvmSource::resume() {
  // Only while nobody is in KVM_RUN: KVM would wait for the vCPU to leave it.
  if (std::exchange(stands_, false)) {
    for (const int vcpu : vm_.vcpu_fds) tell_of_the_pause(vcpu, caps_);
  }
  return hooks_.resume();
}

Status KvmSource::capture_vcpu(std::size_t i, std::span<const Part> parts) {
  std::vector<std::uint32_t> unreadable;
  for (const Part part : parts) {
    if (Status saved = save_part(part, vm_.vcpu_fds[i], caps_, model_.msrs, vcpus_[i], unreadable);
        !saved) {
      saved.error().message += " (vCPU " + std::to_string(i) + ")";
      return saved;
    }
  }
  if (unreadable.empty()) return {};
  return make_error(ErrorCode::kGuest,
                    "MSRs of vCPU " + std::to_string(i) +
                        " that could be read before cannot any more: " + msr_list(unreadable));
}

Status KvmSource::capture() {
  vm_state_.host_tsc_khz = model_.host_tsc_khz;
  const VmParts vm{vm_.vm_fd, vm_.irqchip, vm_.pit};
  return in_runs(save_order(), [&](std::span<const Part> parts) -> Status {
    if (!of_vm(parts.front())) {
      return for_each_vcpu(vcpus_.size(), [&](std::size_t i) { return capture_vcpu(i, parts); });
    }
    for (const Part part : parts) MIGRATE_TRY(save_part(part, vm, vm_state_));
    return {};
  });
}

Status KvmSource::save_state(StateWriter& writer) {
  MIGRATE_TRY(learn_model());
  MIGRATE_TRY(hooks_.save_devices(writer));
  MIGRATE_TRY(capture());
  // Reading a vCPU's state may write guest memory (steal time); from here on nothing does.
  MIGRATE_TRY(writer.memory_final());
  MIGRATE_TRY(writer.section({std::string(kVmSection), kVmVersion, true}, encode(vm_state_)));
  for (std::size_t i = 0; i < vcpus_.size(); ++i) {
    MIGRATE_TRY(
        writer.section({std::string(kVcpuSectionPrefix) + std::to_string(i), kVcpuVersion, true},
                       encode(vcpus_[i])));
  }
  return {};
}

}  // namespace
}  // namespace kvm

Result<std::unique_ptr<SourceGuest>> make_kvm_source(KvmVm vm, KvmSourceHooks& hooks,
                                                     KvmSourceOptions options) {
  if (vm.kvm_fd < 0 || vm.vm_fd < 0 || vm.vcpu_fds.empty() || vm.slots.empty()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "a VM to migrate needs its descriptors, a vCPU and a memory slot");
  }
  auto memory = std::make_unique<kvm::KvmPageSource>(vm.slots);
  kvm::Tracking tracking{std::move(options.tracker), nullptr};
  if (tracking.tracker == nullptr) {
    MIGRATE_ASSIGN(tracking, kvm::make_tracking(vm, *memory, options.tracking));
  }
  if (options.vmm_writes != nullptr) {
    tracking.tracker =
        make_composite_tracker({std::move(tracking.tracker), std::move(options.vmm_writes)});
  }
  return std::unique_ptr<SourceGuest>(std::make_unique<kvm::KvmSource>(
      std::move(vm), hooks, std::move(memory), std::move(tracking)));
}

}  // namespace migrate
