#include "adapters/kvm/vmm/migration_hooks.hpp"

#include <algorithm>

#include "adapters/kvm/vmm/demo_config.hpp"
#include "adapters/kvm/vmm/linux_config.hpp"
#include "base/log.hpp"

namespace migrate::vmm {
namespace {

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

/// Disks, taps and a console that no guest would use are a mistake, too.
Status give_devices(VmmConfig& config, const ArrivalConfig& host) {
  return config.linux_guest ? fit_linux(config, host) : fit_demo(config, host);
}

Error no_guest() { return make_error(ErrorCode::kInternal, "the guest has not been built yet"); }

}  // namespace

KvmSourceOptions source_options(const Vmm& vmm) {
  KvmSourceOptions options;
  options.tracking = vmm.config().tracking;
  options.vmm_writes = vmm.device_writes();
  return options;
}

std::string VmmSourceHooks::name() { return vmm_->config().name; }

// A migration begins: the time it takes is the disks' to write.
Result<std::vector<GuestDescription::Property>> VmmSourceHooks::properties() {
  vmm_->prepare_leaving();
  return encode_machine(vmm_->config());
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

Status VmmSourceHooks::relinquish() { return vmm_->give_up_disks(); }
Status VmmSourceHooks::reclaim() { return vmm_->take_disks(); }

Status VmmSourceHooks::release() {
  vmm_->leave();
  return {};
}

Status VmmSourceHooks::first_pages(PageBitmap& pages) { return vmm_->add_first_pages(pages); }

void VmmSourceHooks::note(std::string_view text) { log_note(name(), text); }

Result<KvmVm> VmmTargetHooks::build(const GuestDescription& description,
                                    const KvmMachine& machine) {
  MIGRATE_ASSIGN(VmmConfig config, decode_machine(description));
  if (!host_.name.empty()) config.name = host_.name;
  config.tracking = host_.tracking;
  config.huge_page_bytes = host_.huge_page_bytes;
  MIGRATE_TRY(give_devices(config, host_));
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

Status VmmTargetHooks::acquire() {
  const auto guest = vmm();
  return guest ? guest->take_arrived_disks() : Status(no_guest());
}

Status VmmTargetHooks::yield() {
  const auto guest = vmm();
  return guest ? guest->give_up_disks() : Status();
}

Status VmmTargetHooks::start(RunState state) {
  const auto guest = vmm();
  if (!guest) return no_guest();
  // Here, not before: what a source sends last of memory may come after its state.
  if (host_.new_identity) MIGRATE_TRY(guest->renew_identity());
  return state == RunState::kRunning ? guest->resume() : Status();
}

void VmmTargetHooks::discard() {
  std::shared_ptr<Vmm> dropped;
  MutexLock lock(mutex_);
  dropped = std::move(vmm_);
}

void VmmTargetHooks::note(std::string_view text) { log_note(host_.name, text); }

std::shared_ptr<Vmm> VmmTargetHooks::vmm() const {
  MutexLock lock(mutex_);
  return vmm_;
}

PacketSource* VmmSourceHooks::waiting_packets() {
  return vmm_->config().nets.empty() ? nullptr : this;
}

Result<std::vector<GuestFrame>> VmmSourceHooks::take_waiting(std::size_t frames_max,
                                                             std::size_t bytes_max) {
  MIGRATE_ASSIGN(auto taken, vmm_->take_waiting_frames(frames_max, bytes_max));
  std::vector<GuestFrame> frames;
  frames.reserve(taken.size());
  for (CardFrame& one : taken) frames.push_back({one.card, std::move(one.frame), one.follows});
  return frames;
}

void VmmSourceHooks::give_back(std::vector<GuestFrame> frames) {
  for (const GuestFrame& frame : frames) vmm_->deliver_frame(frame.card, frame.bytes);
}

std::vector<int> VmmTargetHooks::vcpu_threads() {
  const auto guest = vmm();
  return guest ? guest->vcpu_threads() : std::vector<int>();
}

PacketSink* VmmTargetHooks::packet_sink() { return host_.nets.empty() ? nullptr : this; }

void VmmTargetHooks::source_stands() {
  if (const auto guest = vmm()) guest->keep_waiting_frames();
}

bool VmmTargetHooks::deliver(const GuestFrame& frame) {
  const auto guest = vmm();
  return guest != nullptr && frame.card < guest->config().nets.size() &&
         guest->deliver_frame(frame.card, frame.bytes);
}

}  // namespace migrate::vmm
