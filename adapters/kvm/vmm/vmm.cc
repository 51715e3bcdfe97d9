#include "adapters/kvm/vmm/vmm.hpp"

#include <algorithm>

#include "adapters/kvm/vmm/console.hpp"
#include "adapters/kvm/vmm/demo_image.hpp"
#include "adapters/kvm/vmm/demo_plan.hpp"
#include "adapters/kvm/vmm/demo_stats.hpp"
#include "adapters/kvm/vmm/guest_memory.hpp"
#include "adapters/kvm/vmm/machine.hpp"
#include "adapters/kvm/vmm/section_bytes.hpp"
#include "adapters/kvm/vmm/vcpu.hpp"
#include "base/event_fd.hpp"
#include "base/log.hpp"
#include "base/mutex.hpp"

namespace migrate::vmm {
namespace {

// A kick takes 0.2 ms; a vCPU that is not out after this never comes out.
constexpr std::chrono::seconds kParkDeadline{5};
// What the guest may ask for in one wait, so that a wrong number does not put it to sleep.
constexpr std::chrono::microseconds kWaitMax = std::chrono::seconds(1);

constexpr std::string_view kDevicesSection = "vmm.devices";
constexpr std::uint64_t kDevicesBytesMax = 16 << 10;
// A century in ns: sums of it do not overflow.
constexpr std::uint64_t kCpuTimeMax = 100ull * 366 * 86'400 * 1'000'000'000;

KvmVm describe(const Machine& machine, const GuestMemory& memory) {
  KvmVm vm;
  vm.kvm_fd = machine.kvm_fd();
  vm.vm_fd = machine.vm_fd();
  for (const VcpuFd& vcpu : machine.vcpus()) vm.vcpu_fds.push_back(vcpu.get());
  vm.slots = memory.slots();
  vm.irqchip = machine.shape().irqchip;
  vm.pit = machine.shape().pit;
  vm.dirty_ring = machine.dirty_ring();
  return vm;
}

Error ended_error(VmmState state, const std::optional<Error>& failure) {
  if (failure) return *failure;
  return make_error(
      ErrorCode::kGuest,
      std::string("the guest ") +
          (state == VmmState::kLeft ? "has left: it runs at another host now" : "has stopped"));
}

}  // namespace

std::string_view to_string(VmmState state) {
  switch (state) {
    case VmmState::kPaused:
      return "paused";
    case VmmState::kRunning:
      return "running";
    case VmmState::kStopped:
      return "stopped";
    case VmmState::kLeft:
      return "left";
    case VmmState::kFailed:
      return "failed";
  }
  return "unknown";
}

class Vmm::Impl final : public VcpuEvents {
 public:
  static Result<std::unique_ptr<Impl>> build(const VmmConfig& config, const VmmPlatform& platform);

  Impl(VmmConfig config, GuestMemory memory, Machine machine, EventFd ended)
      : config_(std::move(config)),
        memory_(std::move(memory)),
        machine_(std::move(machine)),
        kvm_vm_(describe(machine_, memory_)),
        ended_(std::move(ended)),
        cpu_before_(config_.vcpus) {
    for (std::uint32_t id = 0; id < config_.vcpus; ++id) {
      vcpus_.push_back(
          std::make_unique<Vcpu>(id, machine_.vcpus()[id], *this, machine_.dirty_ring()));
    }
  }

  Status boot(const demo::ControlBlock& plan);
  Result<std::uint32_t> tsc_khz() const { return machine_.tsc_khz(); }

  const VmmConfig& config() const { return config_; }
  const KvmVm& kvm_vm() const { return kvm_vm_; }
  int ended_fd() const { return ended_.fd(); }
  std::string console() const { return console_.text(); }

  Result<PauseResult> pause() MIGRATE_EXCLUDES(control_mutex_, mutex_);
  Status resume() MIGRATE_EXCLUDES(control_mutex_, mutex_);
  void end(VmmState state) MIGRATE_EXCLUDES(control_mutex_, mutex_);
  VmmState state() const MIGRATE_EXCLUDES(mutex_);
  std::optional<Error> failure() const MIGRATE_EXCLUDES(mutex_);
  Result<GuestStats> stats() const MIGRATE_EXCLUDES(mutex_);
  Status throttle(std::uint32_t vcpu, double share);
  Status save_devices(StateWriter& writer) MIGRATE_EXCLUDES(mutex_);
  Status load_device(const SectionInfo& section, StateReader& reader) MIGRATE_EXCLUDES(mutex_);

  std::chrono::microseconds on_port_out(std::uint32_t vcpu, std::uint16_t port,
                                        std::uint32_t value) override;
  void on_shutdown(std::uint32_t vcpu) override;
  void on_crash(std::uint32_t vcpu, Error why) override;

 private:
  Status start_threads();
  bool has_ended() const MIGRATE_REQUIRES(mutex_) {
    return state_ != VmmState::kPaused && state_ != VmmState::kRunning;
  }
  void end_now(VmmState state, std::optional<Error> why) MIGRATE_REQUIRES(mutex_);
  void ask_all_to_park() MIGRATE_REQUIRES(mutex_);
  bool wait_all_parked();
  std::chrono::nanoseconds cpu_time(std::uint32_t vcpu) const MIGRATE_EXCLUDES(mutex_);

  const VmmConfig config_;
  const GuestMemory memory_;
  Machine machine_;
  KvmVm kvm_vm_;
  EventFd ended_;
  Console console_;

  // Held for the whole of pause, resume and end, so that they do not cross. Before mutex_.
  mutable Mutex control_mutex_;
  // Before each vCPU's own.
  mutable Mutex mutex_;
  VmmState state_ MIGRATE_GUARDED_BY(mutex_) = VmmState::kPaused;
  std::optional<Error> failure_ MIGRATE_GUARDED_BY(mutex_);
  /// CPU time at the hosts the guest has left.
  std::vector<std::chrono::nanoseconds> cpu_before_ MIGRATE_GUARDED_BY(mutex_);

  // Last: its threads use all of the above.
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

Result<std::unique_ptr<Vmm::Impl>> Vmm::Impl::build(const VmmConfig& config,
                                                    const VmmPlatform& platform) {
  MIGRATE_ASSIGN(GuestMemory memory,
                 GuestMemory::create(config.name, config.memory_bytes, config.huge_page_bytes));
  const Machine::Shape shape{config.vcpus, platform.irqchip, platform.pit,
                             config.tracking == TrackerKind::kKvmRing, config.cpu};
  MIGRATE_ASSIGN(Machine machine, Machine::create(shape, memory.slots()));
  MIGRATE_ASSIGN(EventFd ended, EventFd::create());
  auto impl =
      std::make_unique<Impl>(config, std::move(memory), std::move(machine), std::move(ended));
  MIGRATE_TRY(impl->start_threads());
  return impl;
}

Status Vmm::Impl::start_threads() {
  for (const auto& vcpu : vcpus_) MIGRATE_TRY(vcpu->start());
  return {};
}

Status Vmm::Impl::boot(const demo::ControlBlock& plan) {
  MIGRATE_TRY(load_demo_guest(memory_, plan, config_.workload.file));
  MIGRATE_TRY(machine_.set_cpuid());
  for (std::uint32_t id = 0; id < config_.vcpus; ++id) {
    MIGRATE_TRY(set_demo_registers(machine_.vcpus()[id].get(), id));
  }
  // Now, because KVM tells nothing about vCPUs that run.
  MIGRATE_ASSIGN(kvm_vm_.cpu_model, capture_cpu_model(kvm_vm_));
  return {};
}

Result<PauseResult> Vmm::Impl::pause() {
  MutexLock control(control_mutex_);
  {
    MutexLock lock(mutex_);
    if (has_ended()) return ended_error(state_, failure_);
    if (state_ == VmmState::kPaused) {
      return PauseResult{RunState::kPaused, std::chrono::steady_clock::now()};
    }
    ask_all_to_park();
  }
  const bool parked = wait_all_parked();
  MutexLock lock(mutex_);
  if (has_ended()) return ended_error(state_, failure_);
  if (!parked) {
    for (const auto& vcpu : vcpus_) vcpu->let_run();
    return make_error(ErrorCode::kTimeout, "a vCPU did not leave the guest within 5 s")
        .advise("look for an overloaded host; the guest runs on");
  }
  state_ = VmmState::kPaused;
  PauseResult result{RunState::kRunning, {}};
  for (const auto& vcpu : vcpus_) {
    result.stopped_at = std::max(result.stopped_at, vcpu->parked_at());
  }
  return result;
}

Status Vmm::Impl::resume() {
  MutexLock control(control_mutex_);
  MutexLock lock(mutex_);
  if (has_ended()) return ended_error(state_, failure_);
  state_ = VmmState::kRunning;
  for (const auto& vcpu : vcpus_) vcpu->let_run();
  return {};
}

void Vmm::Impl::end(VmmState state) {
  MutexLock control(control_mutex_);
  {
    MutexLock lock(mutex_);
    end_now(state, std::nullopt);
  }
  wait_all_parked();
}

/// What comes first holds: a guest that crashed has not been stopped.
void Vmm::Impl::end_now(VmmState state, std::optional<Error> why) {
  if (has_ended()) return;
  state_ = state;
  failure_ = std::move(why);
  ask_all_to_park();
  ended_.set();
}

void Vmm::Impl::ask_all_to_park() {
  for (const auto& vcpu : vcpus_) vcpu->ask_to_park();
}

bool Vmm::Impl::wait_all_parked() {
  const SteadyTime deadline = std::chrono::steady_clock::now() + kParkDeadline;
  bool all = true;
  for (const auto& vcpu : vcpus_) all = vcpu->wait_parked(deadline) && all;
  return all;
}

VmmState Vmm::Impl::state() const {
  MutexLock lock(mutex_);
  return state_;
}

std::optional<Error> Vmm::Impl::failure() const {
  MutexLock lock(mutex_);
  return failure_;
}

std::chrono::nanoseconds Vmm::Impl::cpu_time(std::uint32_t vcpu) const {
  MutexLock lock(mutex_);
  return cpu_before_[vcpu] + vcpus_[vcpu]->cpu_time();
}

Result<GuestStats> Vmm::Impl::stats() const {
  MIGRATE_ASSIGN(GuestStats stats, read_demo_stats(memory_, config_));
  for (std::uint32_t id = 0; id < config_.vcpus; ++id) {
    stats.vcpus[id].cpu_ms = std::chrono::duration<double, std::milli>(cpu_time(id)).count();
  }
  return stats;
}

Status Vmm::Impl::throttle(std::uint32_t vcpu, double share) {
  if (vcpu >= config_.vcpus || !(share >= 0 && share <= 1)) {
    return make_error(ErrorCode::kInvalidArgument, "cannot withhold a share of " +
                                                       std::to_string(share) + " from vCPU " +
                                                       std::to_string(vcpu))
        .advise("give a share of 0 to 1, and one of the guest's " + std::to_string(config_.vcpus) +
                " vCPUs");
  }
  vcpus_[vcpu]->throttle(share);
  return {};
}

/// vcpus u32, CPU time of each in ns u64, console text.
Status Vmm::Impl::save_devices(StateWriter& writer) {
  SectionBytes bytes;
  bytes.number(config_.vcpus);
  for (std::uint32_t id = 0; id < config_.vcpus; ++id) {
    bytes.number(static_cast<std::uint64_t>(cpu_time(id).count()));
  }
  bytes.text(console_.newest(Console::kMovedBytesMax));
  return writer.section({std::string(kDevicesSection), 1, true}, bytes.take());
}

Status Vmm::Impl::load_device(const SectionInfo& section, StateReader& reader) {
  if (section.name != kDevicesSection || section.version != 1) {
    return StateReader::skip_unknown(section);
  }
  MIGRATE_ASSIGN(const auto body, reader.read_all(kDevicesBytesMax));
  SectionCursor cursor(section.name, body);
  MIGRATE_ASSIGN(const std::uint32_t vcpus, cursor.number<std::uint32_t>());
  if (vcpus != config_.vcpus) return cursor.bad("is of a guest with other vCPUs");
  std::vector<std::chrono::nanoseconds> cpu_before;
  for (std::uint32_t id = 0; id < vcpus; ++id) {
    MIGRATE_ASSIGN(const std::uint64_t time, cursor.number<std::uint64_t>());
    if (time > kCpuTimeMax) return cursor.bad("has an impossible CPU time");
    cpu_before.emplace_back(static_cast<std::int64_t>(time));
  }
  MIGRATE_ASSIGN(const std::string text, cursor.text(Console::kMovedBytesMax));
  MIGRATE_TRY(cursor.end());
  console_.replace(text);
  MutexLock lock(mutex_);
  cpu_before_ = std::move(cpu_before);
  return {};
}

std::chrono::microseconds Vmm::Impl::on_port_out(std::uint32_t vcpu, std::uint16_t port,
                                                 std::uint32_t value) {
  switch (port) {
    case demo::kPortMessage:
      console_.put(static_cast<char>(value & 0xff));
      break;
    case demo::kPortWait:
      return std::min(std::chrono::microseconds(value), kWaitMax);
    case demo::kPortReport:
      log_line(LogLevel::kError, "guest " + config_.name + ": the self-check of vCPU " +
                                     std::to_string(vcpu) + " found an error of kind " +
                                     std::to_string(value) + "; see its statistics");
      break;
    case demo::kPortStop:
      on_shutdown(vcpu);
      break;
    default:
      break;  // As on a PC, nothing answers.
  }
  return std::chrono::microseconds(0);
}

void Vmm::Impl::on_shutdown(std::uint32_t) {
  MutexLock lock(mutex_);
  end_now(VmmState::kStopped, std::nullopt);
}

void Vmm::Impl::on_crash(std::uint32_t, Error why) {
  log_line(LogLevel::kError, "guest " + config_.name + ": " + why.to_text());
  MutexLock lock(mutex_);
  end_now(VmmState::kFailed, std::move(why));
}

Vmm::Vmm(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Vmm::~Vmm() = default;

Result<std::unique_ptr<Vmm>> Vmm::create(const VmmConfig& config) {
  if (config.linux_guest) {
    return make_error(ErrorCode::kUnsupported, "this VMM starts no Linux yet");
  }
  // Before anything is allocated: the shape may be nonsense. The clock's frequency is known later.
  MIGRATE_ASSIGN(demo::ControlBlock plan, plan_demo_guest(config, 0));
  MIGRATE_ASSIGN(auto impl, Impl::build(config, {Machine::offers_irqchip(), false}));
  MIGRATE_ASSIGN(plan.tsc_khz, impl->tsc_khz());
  MIGRATE_TRY(impl->boot(plan));
  return std::unique_ptr<Vmm>(new Vmm(std::move(impl)));
}

Result<std::unique_ptr<Vmm>> Vmm::create_incoming(const VmmConfig& config,
                                                  const VmmPlatform& platform) {
  MIGRATE_TRY(plan_demo_guest(config, 0));
  MIGRATE_ASSIGN(auto impl, Impl::build(config, platform));
  return std::unique_ptr<Vmm>(new Vmm(std::move(impl)));
}

const VmmConfig& Vmm::config() const { return impl_->config(); }
const KvmVm& Vmm::kvm_vm() const { return impl_->kvm_vm(); }
Result<PauseResult> Vmm::pause() { return impl_->pause(); }
Status Vmm::resume() { return impl_->resume(); }
void Vmm::stop() { impl_->end(VmmState::kStopped); }
void Vmm::leave() { impl_->end(VmmState::kLeft); }
VmmState Vmm::state() const { return impl_->state(); }
std::optional<Error> Vmm::failure() const { return impl_->failure(); }
int Vmm::ended_fd() const { return impl_->ended_fd(); }
Result<GuestStats> Vmm::stats() const { return impl_->stats(); }
std::string Vmm::console() const { return impl_->console(); }
std::string Vmm::console_terminal() const { return {}; }
std::size_t Vmm::console_input(std::span<const std::byte>) { return 0; }
Status Vmm::throttle(std::uint32_t vcpu, double share) { return impl_->throttle(vcpu, share); }
Status Vmm::save_devices(StateWriter& writer) { return impl_->save_devices(writer); }
Status Vmm::load_device(const SectionInfo& section, StateReader& reader) {
  return impl_->load_device(section, reader);
}

}  // namespace migrate::vmm
