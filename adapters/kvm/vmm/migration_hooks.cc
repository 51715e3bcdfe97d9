#include "adapters/kvm/vmm/migration_hooks.hpp"

#include <algorithm>

#include "adapters/kvm/vmm/demo_plan.hpp"
#include "adapters/kvm/vmm/section_bytes.hpp"
#include "base/log.hpp"

namespace migrate::vmm {
namespace {

constexpr std::string_view kMachineSection = "vmm.machine";
constexpr std::uint32_t kMachineVersion = 1;
// 64 vCPUs with a writer of all options each are 4 KiB; a file's name is at most as long.
constexpr std::size_t kWorkloadTextMax = 16 << 10;

void log_note(std::string_view guest, std::string_view text) {
  log_line(LogLevel::kInfo, "guest " + std::string(guest) + ": " + std::string(text));
}

/// Memory is laid out from its size alone; a source that did it otherwise is another program.
Status check_slots(const KvmMachine& machine, const Vmm& vmm) {
  const auto& mine = vmm.kvm_vm().slots;
  const bool same = std::equal(machine.slots.begin(), machine.slots.end(), mine.begin(), mine.end(),
                               [](const KvmMachine::Slot& theirs, const KvmMemorySlot& own) {
                                 return theirs.slot == own.slot &&
                                        theirs.guest_address == own.guest_address &&
                                        theirs.bytes == own.bytes && !theirs.read_only;
                               });
  if (same && machine.vcpus == vmm.config().vcpus) return {};
  return make_error(ErrorCode::kIncompatible,
                    "the guest's memory slots or vCPUs are not those this VMM makes for it")
      .advise("use the same version of migrate on both hosts");
}

Error no_guest() { return make_error(ErrorCode::kInternal, "the guest has not been built yet"); }

}  // namespace

GuestDescription::Property encode_machine(const VmmConfig& config) {
  SectionBytes bytes;
  bytes.number(config.memory_bytes).number(config.vcpus).text(to_text(config.workload));
  return {{std::string(kMachineSection), kMachineVersion, true}, bytes.take()};
}

Result<VmmConfig> decode_machine(const GuestDescription& description) {
  const auto found =
      std::find_if(description.properties.begin(), description.properties.end(),
                   [](const auto& property) { return property.info.name == kMachineSection; });
  if (found == description.properties.end() || found->info.version != kMachineVersion) {
    return make_error(ErrorCode::kIncompatible, "the guest is not one of this VMM's, version " +
                                                    std::to_string(kMachineVersion))
        .advise("use the same version of migrate on both hosts");
  }
  SectionCursor cursor(found->info.name, found->body);
  VmmConfig config;
  config.name = description.name;
  MIGRATE_ASSIGN(config.memory_bytes, cursor.number<std::uint64_t>());
  MIGRATE_ASSIGN(config.vcpus, cursor.number<std::uint32_t>());
  MIGRATE_ASSIGN(const std::string workload, cursor.text(kWorkloadTextMax));
  MIGRATE_TRY(cursor.end());
  // Both refuse what makes no sense, as they do for a user's words.
  auto parsed = parse_workload(workload);
  if (!parsed) return cursor.bad("makes no sense: " + parsed.error().message);
  config.workload = *std::move(parsed);
  if (const auto plan = plan_demo_guest(config, 0); !plan) {
    return cursor.bad("makes no sense: " + plan.error().message);
  }
  return config;
}

std::string VmmSourceHooks::name() { return vmm_->config().name; }

Result<std::vector<GuestDescription::Property>> VmmSourceHooks::properties() {
  return std::vector<GuestDescription::Property>{encode_machine(vmm_->config())};
}

RunState VmmSourceHooks::run_state() {
  return vmm_->state() == VmmState::kPaused ? RunState::kPaused : RunState::kRunning;
}

Result<PauseResult> VmmSourceHooks::pause() { return vmm_->pause(); }
Status VmmSourceHooks::resume() { return vmm_->resume(); }
Status VmmSourceHooks::save_devices(StateWriter& writer) { return vmm_->save_devices(writer); }

Status VmmSourceHooks::throttle(std::uint32_t vcpu, double share) {
  return vmm_->throttle(vcpu, share);
}

// No disks yet, so there is nothing that only one host may hold.
Status VmmSourceHooks::relinquish() { return {}; }
Status VmmSourceHooks::reclaim() { return {}; }

Status VmmSourceHooks::release() {
  vmm_->leave();
  return {};
}

void VmmSourceHooks::note(std::string_view text) { log_note(name(), text); }

Result<KvmVm> VmmTargetHooks::build(const GuestDescription& description,
                                    const KvmMachine& machine) {
  MIGRATE_ASSIGN(VmmConfig config, decode_machine(description));
  if (!name_.empty()) config.name = name_;
  config.tracking = tracking_;
  config.huge_page_bytes = huge_page_bytes_;
  MIGRATE_ASSIGN(auto made, Vmm::create_incoming(config, {machine.irqchip, machine.pit}));
  MIGRATE_TRY(check_slots(machine, *made));
  const std::shared_ptr<Vmm> built = std::move(made);
  MutexLock lock(mutex_);
  vmm_ = built;
  return built->kvm_vm();
}

Status VmmTargetHooks::load_device(const SectionInfo& section, StateReader& reader) {
  const auto guest = vmm();
  return guest ? guest->load_device(section, reader) : Status(no_guest());
}

Status VmmTargetHooks::acquire() { return {}; }
Status VmmTargetHooks::yield() { return {}; }

Status VmmTargetHooks::start(RunState state) {
  const auto guest = vmm();
  if (!guest) return no_guest();
  return state == RunState::kRunning ? guest->resume() : Status();
}

void VmmTargetHooks::discard() {
  std::shared_ptr<Vmm> dropped;
  MutexLock lock(mutex_);
  dropped = std::move(vmm_);
}

void VmmTargetHooks::note(std::string_view text) { log_note(name_, text); }

std::shared_ptr<Vmm> VmmTargetHooks::vmm() const {
  MutexLock lock(mutex_);
  return vmm_;
}

}  // namespace migrate::vmm
