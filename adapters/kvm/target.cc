// The guest at the target: preflight, then the VMM builds, then memory and state arrive.
#include <charconv>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "adapters/kvm/cpu_model.hpp"
#include "adapters/kvm/guest_memory.hpp"
#include "adapters/kvm/machine.hpp"
#include "adapters/kvm/msrs.hpp"
#include "adapters/kvm/parallel.hpp"
#include "adapters/kvm/preflight.hpp"
#include "adapters/kvm/rehearsal.hpp"
#include "adapters/kvm/state_codec.hpp"
#include "base/start_thread.hpp"
#include "migrate/kvm.hpp"

namespace migrate {
namespace kvm {
namespace {

class KvmTarget final : public TargetGuest {
 public:
  KvmTarget(int kvm_fd, KvmTargetHooks& hooks, const KvmTargetOptions& options)
      : kvm_fd_(kvm_fd), hooks_(hooks), options_(options) {}
  ~KvmTarget() override { wait_for_trial(); }
  KvmTarget(const KvmTarget&) = delete;
  KvmTarget& operator=(const KvmTarget&) = delete;

  Status prepare(const GuestDescription& description) override;
  PageSink& pages() override { return pages_; }
  Status load_state(StateReader& reader) override;
  Result<std::chrono::nanoseconds> rehearse_load() override;
  Status acquire() override { return hooks_.acquire(); }
  Status yield() override { return hooks_.yield(); }
  Status start(RunState state) override { return hooks_.start(state); }
  void discard() override;
  std::vector<FaultSource> fault_sources() override { return {}; }
  std::vector<int> vcpu_threads() override { return hooks_.vcpu_threads(); }
  PacketSink* packet_sink() override { return hooks_.packet_sink(); }

 private:
  /// The adapter's sections of one attempt.
  struct Arrived {
    std::optional<VmState> vm;
    std::map<std::size_t, VcpuState> vcpus;
  };

  Status read_sections(StateReader& reader, Arrived& arrived);
  Status read_section(const SectionInfo& section, StateReader& reader, Arrived& arrived);
  Status check_complete(const Arrived& arrived) const;
  Status apply(const Arrived& arrived);
  Status apply_vcpu(std::size_t i, std::span<const Part> parts, const LoadContext& context,
                    const VcpuState& state, LoadNotes& notes);
  Status report(const std::vector<LoadNotes>& notes);
  void end_beside(TrialVm trial);
  void wait_for_trial() {
    if (trial_end_.joinable()) trial_end_.join();
  }

  const int kvm_fd_;
  KvmTargetHooks& hooks_;
  const KvmTargetOptions options_;
  KvmPageSink pages_;
  KvmVm vm_;
  std::uint32_t host_tsc_khz_ = 0;
  std::uint64_t xsave_components_ = 0;  ///< That the guest's XCR0 may have.
  bool built_ = false;
  CpuModel model_;
  std::thread trial_end_;
};

Status KvmTarget::prepare(const GuestDescription& description) {
  MIGRATE_ASSIGN(const KvmMachine machine, kvm_machine(description));
  MIGRATE_ASSIGN(const auto* property, find_property(description, kCpuProperty, kCpuVersion));
  MIGRATE_ASSIGN(model_, decode_cpu_model(property->body));
  MIGRATE_ASSIGN(PreflightResult checked,
                 preflight(kvm_fd_, machine, model_, options_.huge_page_bytes));
  host_tsc_khz_ = checked.host_tsc_khz;
  end_beside(std::move(checked.trial));
  xsave_components_ = xcr0_bits(model_.vcpus.front());
  built_ = true;
  MIGRATE_ASSIGN(vm_, hooks_.build(description, machine));
  MIGRATE_TRY(check_built(machine, vm_));
  // The same for all its vCPUs as at the source, APIC ids included.
  for (std::size_t i = 0; i < vm_.vcpu_fds.size(); ++i) {
    MIGRATE_TRY(set_vcpu_cpuid(vm_.vcpu_fds[i], model_.vcpus[i]));
  }
  pages_.use(vm_.slots);
  return {};
}

/// A guest that is restored would wait for it as long as for everything else of its start.
void KvmTarget::end_beside(TrialVm trial) {
  wait_for_trial();
  // Where there is no thread it ends here.
  (void)start_thread(trial_end_, "mig-trial-end", [trial = std::move(trial)]() mutable {
    const TrialVm ended(std::move(trial));
  });
}

Result<std::chrono::nanoseconds> KvmTarget::rehearse_load() {
  MIGRATE_CHECK(built_);
  return kvm::rehearse_load(kvm_fd_, vm_.irqchip, model_);
}

void KvmTarget::discard() {
  if (std::exchange(built_, false)) hooks_.discard();
}

Status KvmTarget::load_state(StateReader& reader) {
  MIGRATE_CHECK(built_);
  Arrived arrived;
  MIGRATE_TRY(read_sections(reader, arrived));
  MIGRATE_TRY(check_complete(arrived));
  return apply(arrived);
}

Status KvmTarget::read_sections(StateReader& reader, Arrived& arrived) {
  while (true) {
    MIGRATE_ASSIGN(const auto section, reader.next());
    if (!section) return {};
    if (section->name.rfind("kvm.", 0) == 0) {
      MIGRATE_TRY(read_section(*section, reader, arrived));
    } else {
      MIGRATE_TRY(hooks_.load_device(*section, reader));
    }
  }
}

/// The number in "kvm.vcpu.7"; nullopt for another section.
std::optional<std::size_t> vcpu_number(const std::string& name) {
  if (name.rfind(kVcpuSectionPrefix, 0) != 0) return std::nullopt;
  std::size_t number = 0;
  const char* begin = name.data() + kVcpuSectionPrefix.size();
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(begin, end, number);
  if (error != std::errc() || stop != end) return std::nullopt;
  return number;
}

Status KvmTarget::read_section(const SectionInfo& section, StateReader& reader, Arrived& arrived) {
  const std::optional<std::size_t> vcpu = vcpu_number(section.name);
  if (section.name != kVmSection && !vcpu) return StateReader::skip_unknown(section);
  const std::uint32_t known = vcpu ? kVcpuVersion : kVmVersion;
  if (section.version != known) {
    return make_error(ErrorCode::kVersionMismatch,
                      "state section " + section.name + " is of version " +
                          std::to_string(section.version) + ", and version " +
                          std::to_string(known) + " is known here")
        .advise("install the same version on both hosts");
  }
  MIGRATE_ASSIGN(const auto bytes, reader.read_all(kSectionBytesMax));
  if (!vcpu) {
    MIGRATE_ASSIGN(arrived.vm, decode_vm(bytes));
    return {};
  }
  if (*vcpu >= vm_.vcpu_fds.size() || arrived.vcpus.count(*vcpu) != 0) {
    return make_error(ErrorCode::kProtocol, "state section " + section.name + " is out of place");
  }
  auto state = decode_vcpu(bytes);
  if (!state) {
    state.error().message += " (vCPU " + std::to_string(*vcpu) + ")";
    return std::move(state).error();
  }
  arrived.vcpus.emplace(*vcpu, *std::move(state));
  return {};
}

Status KvmTarget::check_complete(const Arrived& arrived) const {
  const auto lacks = [](const std::string& what) {
    return make_error(ErrorCode::kProtocol, "the state that arrived lacks " + what);
  };
  if (!arrived.vm) return lacks("section kvm.vm");
  if (arrived.vcpus.size() != vm_.vcpu_fds.size()) return lacks("a vCPU");
  const VmState& vm = *arrived.vm;
  const bool chips = vm.pic_master && vm.pic_slave && vm.ioapic;
  if (vm_.irqchip && !chips) return lacks("an interrupt controller");
  if (vm_.pit && !vm.pit) return lacks("the PIT");
  for (const auto& [number, vcpu] : arrived.vcpus) {
    if (vm_.irqchip && !vcpu.lapic) return lacks("the LAPIC of vCPU " + std::to_string(number));
  }
  return {};
}

bool scales(std::uint32_t guest_khz, std::uint32_t host_khz) {
  return guest_khz != 0 && host_khz != 0 && !same_frequency(guest_khz, host_khz);
}

Status KvmTarget::apply_vcpu(std::size_t i, std::span<const Part> parts, const LoadContext& context,
                             const VcpuState& state, LoadNotes& notes) {
  for (const Part part : parts) {
    if (Status loaded = load_part(part, vm_.vcpu_fds[i], context, state, notes); !loaded) {
      loaded.error().message += " (vCPU " + std::to_string(i) + ")";
      return loaded;
    }
  }
  return {};
}

Status KvmTarget::apply(const Arrived& arrived) {
  const VmParts vm{vm_.vm_fd, vm_.irqchip, vm_.pit};
  const std::uint32_t guest_khz = arrived.vcpus.begin()->second.tsc_khz;
  LoadContext context;
  context.caps = vcpu_caps(vm_.vm_fd, vm_.irqchip);
  enable_whole_events(vm_.vm_fd, context.caps);
  context.xsave_components = xsave_components_;
  context.source_clock = arrived.vm->clock;
  context.scaled_tsc =
      scales(guest_khz, arrived.vm->host_tsc_khz) || scales(guest_khz, host_tsc_khz_);
  std::vector<LoadNotes> notes(vm_.vcpu_fds.size());
  const Status applied = in_runs(load_order(), [&](std::span<const Part> parts) -> Status {
    if (!of_vm(parts.front())) {
      return for_each_vcpu(notes.size(), [&](std::size_t i) {
        return apply_vcpu(i, parts, context, arrived.vcpus.at(i), notes[i]);
      });
    }
    for (const Part part : parts) {
      MIGRATE_TRY(load_part(part, vm, *arrived.vm, context.target_clock));
    }
    return {};
  });
  if (!applied) return applied;
  return report(notes);
}

/// Refused MSRs whose value is here anyhow are only listed; others would be lost.
Status KvmTarget::report(const std::vector<LoadNotes>& notes) {
  for (std::size_t i = 0; i < notes.size(); ++i) {
    if (notes[i].refused_msrs.empty()) continue;
    MIGRATE_ASSIGN(const auto lost, lost_msrs(vm_.vcpu_fds[i], notes[i].refused_msrs));
    if (!lost.empty()) {
      return make_error(ErrorCode::kIncompatible, "KVM here refuses the guest's values of MSRs " +
                                                      msr_list(lost) + " of vCPU " +
                                                      std::to_string(i))
          .advise("choose a target with the source's kernel and processor");
    }
    std::vector<std::uint32_t> refused;
    for (const kvm_msr_entry& entry : notes[i].refused_msrs) refused.push_back(entry.index);
    hooks_.note("vCPU " + std::to_string(i) + ": KVM refuses to set MSRs " + msr_list(refused) +
                ", which have the guest's values already");
  }
  for (const LoadNotes& note : notes) {
    if (!note.tsc_offset_ignored) continue;
    hooks_.note("KVM here does not shift the TSC: the guest sees this host's");
    break;
  }
  return {};
}

}  // namespace
}  // namespace kvm

std::unique_ptr<TargetGuest> make_kvm_target(int kvm_fd, KvmTargetHooks& hooks,
                                             const KvmTargetOptions& options) {
  return std::make_unique<kvm::KvmTarget>(kvm_fd, hooks, options);
}

}  // namespace migrate
