#include "migration.hpp"

#include <fcntl.h>

#include <cstdio>
#include <migrate/endpoint.hpp>
#include <utility>

namespace tiny {
namespace {

const SectionInfo kCounters{"tiny.counter", 1, true};

void say(std::string_view what, std::string_view text) {
  std::printf("%s: %s\n", std::string(what).c_str(), std::string(text).c_str());
}

}  // namespace

MovableGuest::MovableGuest(std::unique_ptr<Vmm> vmm) : vmm_(std::move(vmm)) {
  const Region memory = region_of(kvm_vm().slots[0]);
  device_writes_ = make_software_bitmap({&memory, 1});
  // No log of KVM's sees what the device writes: it is marked, each time after the write.
  vmm_->on_device_write = [this](std::uint64_t address, std::uint64_t bytes) {
    device_writes_->mark(GuestAddr{address}, bytes);
  };
}

KvmVm MovableGuest::kvm_vm() const {
  KvmVm vm;
  vm.kvm_fd = vmm_->kvm_fd();
  vm.vm_fd = vmm_->vm_fd();
  for (unsigned id = 0; id < vmm_->shape().vcpus; ++id) vm.vcpu_fds.push_back(vmm_->vcpu_fd(id));
  KvmMemorySlot slot;
  slot.bytes = vmm_->memory().size();
  slot.host = vmm_->memory().data();
  slot.backing = Backing::kMemfd;
  slot.memfd = vmm_->memfd();
  vm.slots.push_back(slot);
  vm.irqchip = true;
  return vm;
}

Outcome MovableGuest::send(const std::string& target, const TlsOptions& tls,
                           const OutgoingOptions& options) {
  auto connector = make_connector(target, tls, options.sockets);
  KvmSourceOptions source_options;
  source_options.vmm_writes = device_writes_;
  auto source = make_kvm_source(kvm_vm(), *this, std::move(source_options));
  if (!connector || !source) {
    say("reason", (connector ? source.error() : connector.error()).to_text());
    return Outcome::kFailed;
  }
  std::unique_lock lock(mutex_);
  connector_ = *std::move(connector);
  outgoing_.reset(new Outgoing(*std::move(source), options, this));
  lock.unlock();
  OutgoingResult result = outgoing_->run(*connector_);
  lock.lock();
  outgoing_.reset();
  const Outcome outcome = result.outcome;
  if (result.report.error) say("reason", result.report.error->to_text());
  if (outcome == Outcome::kUncertain) uncertain_ = std::move(result);
  return outcome;
}

bool MovableGuest::cancel() {
  const std::lock_guard lock(mutex_);
  return outgoing_ != nullptr && outgoing_->cancel();
}

Status MovableGuest::resolve(bool resume, bool force) {
  UncertainHandover& handover = *uncertain_.uncertain;
  return resume ? handover.resume(*connector_, force) : handover.release(*connector_, force);
}

Result<std::vector<GuestDescription::Property>> MovableGuest::properties() {
  return std::vector<GuestDescription::Property>();  // vCPUs and memory say it all.
}

RunState MovableGuest::run_state() {
  return vmm_->paused() ? RunState::kPaused : RunState::kRunning;
}

Result<PauseResult> MovableGuest::pause() {
  const RunState before = run_state();
  return PauseResult{before, vmm_->pause()};
}

Status MovableGuest::resume() { return vmm_->resume(), Status(); }

Status MovableGuest::save_devices(StateWriter& writer) {
  const std::vector<Counter> counters = vmm_->counters();
  return writer.section(kCounters, std::as_bytes(std::span(counters)));
}

Status MovableGuest::throttle(std::uint32_t, double) {
  return make_error(ErrorCode::kUnsupported, "tiny_vmm does not slow its guests down");
}

void MovableGuest::note(std::string_view text) { say("note", text); }
void MovableGuest::on_progress(const Progress& now) {
  say("pages left", std::to_string(now.pages_left));
}
void MovableGuest::on_event(const Event& event) { say(event.name, event.detail); }

Arrival::Arrival(const std::string& runtime_dir)
    : kvm_(open("/dev/kvm", O_RDWR | O_CLOEXEC)),
      incoming_(make_kvm_target(kvm_.get(), *this), {.runtime_dir = runtime_dir}, *this) {}

void Arrival::receive(const std::string& address, const TlsOptions& tls) {
  auto acceptor = make_acceptor(address, tls);
  if (!acceptor) {
    say("reason", acceptor.error().to_text());
    return started_.set_value(nullptr);
  }
  say("listening on", (*acceptor)->address());
  const IncomingResult result = incoming_.run(**acceptor);
  if (result.report.error) say("reason", result.report.error->to_text());
  if (result.outcome != Outcome::kDone) started_.set_value(nullptr);
}

Result<KvmVm> Arrival::build(const GuestDescription&, const KvmMachine& machine) try {
  if (machine.slots.size() != 1 || machine.slots[0].guest_address.value != 0 || machine.pit) {
    return make_error(ErrorCode::kIncompatible, "the guest is not one of tiny_vmm's");
  }
  const Shape shape{machine.vcpus, machine.slots[0].bytes};
  guest_ = std::make_shared<MovableGuest>(std::make_unique<Vmm>(shape, Vmm::Start::kEmpty));
  return guest_->kvm_vm();
} catch (const std::exception& error) {
  return make_error(ErrorCode::kGuest, error.what());  // No exception may leave a hook.
}

Status Arrival::load_device(const SectionInfo& section, StateReader& reader) {
  if (section.name != kCounters.name) return StateReader::skip_unknown(section);
  if (section.version != kCounters.version) {
    return make_error(ErrorCode::kVersionMismatch, "the counters are of another version");
  }
  std::vector<Counter> counters(guest_->vmm().shape().vcpus);
  MIGRATE_TRY(reader.read(std::as_writable_bytes(std::span(counters))));
  return guest_->vmm().set_counters(std::move(counters)), Status();
}

Status Arrival::start(RunState state) {
  if (state == RunState::kRunning) guest_->vmm().resume();
  return {};
}

void Arrival::note(std::string_view text) { say("note", text); }

}  // namespace tiny
