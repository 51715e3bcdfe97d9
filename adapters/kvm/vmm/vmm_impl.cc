#include "adapters/kvm/vmm/vmm_impl.hpp"

#include <poll.h>

#include <utility>

#include "adapters/kvm/vmm/demo_board.hpp"
#include "adapters/kvm/vmm/linux_board.hpp"
#include "adapters/kvm/vmm/own_section.hpp"
#include "adapters/kvm/vmm/vcpu_pages.hpp"
#include "base/log.hpp"

namespace migrate::vmm {
namespace {

// A kick takes 0.2 ms; a vCPU that is not out after this never comes out. A disk has as long for
// the request it works on.
constexpr std::chrono::seconds kStandDeadline{5};
// The guest runs meanwhile. One that was said to leave has some WriteBack::kEagerBytes a disk to
// write; another's go on being written when the pause has failed, so that the next try has less.
constexpr std::chrono::seconds kWriteBackDeadline{10};

// Between two tries of a restart: for another thread to wake and lock a mutex. Short for a guest.
constexpr std::chrono::milliseconds kRestartPause{100};

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

Error vcpu_is_late() {
  return make_error(ErrorCode::kTimeout, "a vCPU did not leave the guest within 5 s")
      .advise("look for an overloaded host; the guest runs on");
}

Error ended_error(VmmState state, const std::optional<Error>& failure) {
  if (failure) return *failure;
  return make_error(
      ErrorCode::kGuest,
      std::string("the guest ") +
          (state == VmmState::kLeft ? "has left: it runs at another host now" : "has stopped"));
}

}  // namespace

Vmm::Impl::Impl(VmmConfig config, GuestMemory memory, Machine machine, EventFd ended)
    : config_(std::move(config)),
      memory_(std::move(memory)),
      machine_(std::move(machine)),
      kvm_vm_(describe(machine_, memory_)),
      ended_(std::move(ended)),
      cpu_before_(config_.vcpus),
      vcpus_(machine_, *this) {}

// First the guest stands: its vCPUs' threads use all there is.
Vmm::Impl::~Impl() {
  if (board_ != nullptr) end(VmmState::kStopped);
}

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
  MIGRATE_ASSIGN(impl->board_, impl->make_board());
  MIGRATE_TRY(impl->vcpus_.start());
  if (config.linux_guest) MIGRATE_TRY(impl->start_restarter());
  return impl;
}

Status Vmm::Impl::start_restarter() {
  MIGRATE_ASSIGN(restarter_, DeviceWorker::create("restarter", [this] {
                   const bool again = restart_and_run();
                   if (again) leave_others_a_turn();
                   return DeviceWorker::Next{again, false};
                 }));
  restarter_->start();
  restarter_->resume();
  return {};
}

/// A pause and an end wait for the lock, and may not get it from one who takes it again at once.
void Vmm::Impl::leave_others_a_turn() const {
  pollfd ended{ended_.fd(), POLLIN, 0};
  (void)::poll(&ended, 1, static_cast<int>(kRestartPause.count()));
}

Result<std::unique_ptr<Board>> Vmm::Impl::make_board() {
  if (config_.linux_guest) {
    return LinuxBoard::create(config_, machine_, memory_.slots(), console_, *this);
  }
  return DemoBoard::create(config_, memory_, console_, *this);
}

Status Vmm::Impl::boot() {
  MIGRATE_TRY(board_->take_disks());
  MIGRATE_TRY(board_->boot(machine_));
  MIGRATE_TRY(give_generation());
  // Now, because KVM tells nothing about vCPUs that run.
  MIGRATE_ASSIGN(kvm_vm_.cpu_model, capture_cpu_model(kvm_vm_));
  return {};
}

Status Vmm::Impl::check_alive() const {
  MutexLock lock(mutex_);
  if (has_ended()) return ended_error(state_, failure_);
  return {};
}

// Devices first, while the vCPUs still run: a request that a disk is slow with is no downtime.
Result<PauseResult> Vmm::Impl::pause() {
  MutexLock control(control_mutex_);
  MIGRATE_TRY(check_alive());
  if (state() == VmmState::kPaused) {
    return PauseResult{RunState::kPaused, std::chrono::steady_clock::now()};
  }
  MIGRATE_TRY(board_->prepare_pause(std::chrono::steady_clock::now() + kWriteBackDeadline));
  MIGRATE_TRY(board_->quiesce(std::chrono::steady_clock::now() + kStandDeadline));
  vcpus_.ask_all_to_park();
  const bool parked = vcpus_.wait_all_parked(std::chrono::steady_clock::now() + kStandDeadline);
  if (parked) MIGRATE_TRY(restart_if_wanted());
  if (!parked) MIGRATE_TRY(board_->resume());
  MutexLock lock(mutex_);
  if (has_ended()) return ended_error(state_, failure_);
  if (!parked) {
    // One that wants to begin anew has no other way to go on: the restarter comes next.
    if (!restart_wanted_) vcpus_.let_all_run();
    return vcpu_is_late();
  }
  state_ = VmmState::kPaused;
  return PauseResult{RunState::kRunning, vcpus_.parked_at()};
}

Status Vmm::Impl::resume() {
  MutexLock control(control_mutex_);
  MIGRATE_TRY(check_alive());
  if (state() == VmmState::kRunning) return {};
  MIGRATE_TRY(board_->resume());
  MutexLock lock(mutex_);
  if (has_ended()) return ended_error(state_, failure_);
  state_ = VmmState::kRunning;
  vcpus_.let_all_run();
  return {};
}

void Vmm::Impl::end(VmmState state) {
  MutexLock control(control_mutex_);
  {
    MutexLock lock(mutex_);
    end_now(state, std::nullopt);
  }
  vcpus_.wait_all_parked(std::chrono::steady_clock::now() + kStandDeadline);
  // A request that hangs goes on until the machine is dropped; the guest does not.
  board_->stand_for_good(std::chrono::steady_clock::now() + kStandDeadline);
}

/// What comes first holds: a guest that crashed has not been stopped.
void Vmm::Impl::end_now(VmmState state, std::optional<Error> why) {
  if (has_ended()) return;
  state_ = state;
  failure_ = std::move(why);
  vcpus_.ask_all_to_park();
  ended_.set();
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
  return cpu_before_[vcpu] + vcpus_[vcpu].cpu_time();
}

Result<GuestStats> Vmm::Impl::stats() const {
  MIGRATE_ASSIGN(GuestStats stats, board_->stats());
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
  vcpus_[vcpu].throttle(share);
  return {};
}

Status Vmm::Impl::save_devices(StateWriter& writer) {
  OwnState own;
  for (std::uint32_t id = 0; id < config_.vcpus; ++id) own.cpu_times.push_back(cpu_time(id));
  own.console = console_.newest(Console::kMovedBytesMax);
  MIGRATE_TRY(write_own_section(writer, own));
  std::optional<Generation> generation;
  {
    MutexLock lock(mutex_);
    generation = generation_;
  }
  if (generation) MIGRATE_TRY(write_generation_section(writer, *generation));
  return board_->movable().save(writer);
}

// Its own section begins each attempt. Who told of the source's pause has ended the shedding then.
Status Vmm::Impl::load_device(const SectionInfo& section, StateReader& reader) {
  if (section.name == kGenerationSection) return load_generation(section, reader);
  if (section.name != kOwnSection) return board_->movable().load(section, reader);
  board_->devices().stop_shedding();
  board_->movable().begin_load();
  MIGRATE_ASSIGN(OwnState own, read_own_section(section, reader, config_.vcpus));
  console_.replace(own.console);
  MutexLock lock(mutex_);
  cpu_before_ = std::move(own.cpu_times);
  generation_.reset();
  return {};
}

Status Vmm::Impl::take_arrived_disks() {
  MIGRATE_TRY(board_->movable().check_loaded());
  return board_->take_disks();
}

Status Vmm::Impl::give_up_disks() {
  return board_->give_up_disks(std::chrono::steady_clock::now() + kStandDeadline);
}

Status Vmm::Impl::add_first_pages(PageBitmap& pages) {
  MutexLock control(control_mutex_);
  MIGRATE_TRY(check_alive());
  if (state() != VmmState::kPaused) {
    return make_error(ErrorCode::kBusy, "the guest runs: what it touches next is not known");
  }
  FirstPages first(memory_.slots(), pages);
  const GuestRam ram(memory_.slots(), nullptr);
  for (const VcpuFd& vcpu : machine_.vcpus()) vmm::add_first_pages(vcpu.get(), ram, first);
  board_->add_first_pages(first);
  return {};
}

std::vector<int> Vmm::Impl::vcpu_threads() {
  std::vector<int> threads;
  for (std::uint32_t id = 0; id < vcpus_.size(); ++id) threads.push_back(vcpus_[id].thread_id());
  return threads;
}

// The lock keeps the guest paused, so its devices quiesced.
Result<std::vector<CardFrame>> Vmm::Impl::take_waiting_frames(std::size_t frames_max,
                                                              std::size_t bytes_max) {
  MutexLock control(control_mutex_);
  MIGRATE_TRY(check_alive());
  if (state() != VmmState::kPaused) {
    return make_error(ErrorCode::kBusy, "the guest runs: frames for it are its own");
  }
  const VirtioDevices& devices = board_->devices();
  std::vector<CardFrame> frames;
  std::size_t bytes = 0;
  CardFrame next;
  for (std::size_t i = 0; i < devices.nets(); ++i) {
    next.card = static_cast<std::uint32_t>((first_card_ + i) % devices.nets());
    const VirtioNet& net = devices.net(next.card);
    while (frames.size() < frames_max && bytes < bytes_max &&
           devices.net(next.card).take_waiting(next.frame)) {
      next.follows = net.is_reached_here_alone(next.frame);
      bytes += next.frame.size();
      frames.push_back(next);
    }
  }
  // One that is flooded does not keep the others' frames here.
  if (devices.nets() > 0) first_card_ = (first_card_ + 1) % devices.nets();
  return frames;
}

void Vmm::Impl::on_switched_off() {
  MutexLock lock(mutex_);
  end_now(VmmState::kStopped, std::nullopt);
}

void Vmm::Impl::on_crashed(Error why) {
  log_line(LogLevel::kError, "guest " + config_.name + ": " + why.to_text());
  MutexLock lock(mutex_);
  end_now(VmmState::kFailed, std::move(why));
}

void Vmm::Impl::on_restart_wanted() {
  MutexLock lock(mutex_);
  if (has_ended()) return;
  restart_wanted_ = true;
  vcpus_.ask_all_to_park();
  restarter_->kick();
}

/// A pause that comes in between restarts the guest itself, so that what it saves is one machine.
/// True: something is too slow, try again.
bool Vmm::Impl::restart_and_run() {
  MutexLock control(control_mutex_);
  {
    MutexLock lock(mutex_);
    if (!restart_wanted_ || has_ended()) return false;
  }
  const Status done = stand_and_restart();
  if (!done && done.error().code == ErrorCode::kTimeout) {
    if (!std::exchange(restart_late_, true)) {
      log_line(LogLevel::kWarning,
               "guest " + config_.name + " restarts as soon as it can: " + done.error().message);
    }
    return true;
  }
  restart_late_ = false;
  MutexLock lock(mutex_);
  if (!done) {
    end_now(VmmState::kFailed, done.error());
  } else if (!has_ended()) {
    vcpus_.let_all_run();
  }
  return false;
}

/// kTimeout: devices work on, vCPUs were asked to park, and the restart is still wanted.
Status Vmm::Impl::stand_and_restart() {
  vcpus_.ask_all_to_park();
  const SteadyTime deadline = std::chrono::steady_clock::now() + kStandDeadline;
  MIGRATE_TRY(board_->quiesce(deadline));
  if (!vcpus_.wait_all_parked(deadline)) {
    MIGRATE_TRY(board_->resume());
    return vcpu_is_late();
  }
  MIGRATE_TRY(restart_if_wanted());
  // It may have crashed as it was asked to park: then its devices stay as they are, too.
  MIGRATE_TRY(check_alive());
  return board_->resume();
}

/// With all vCPUs parked and devices quiesced.
Status Vmm::Impl::restart_if_wanted() {
  {
    MutexLock lock(mutex_);
    if (!std::exchange(restart_wanted_, false) || has_ended()) return {};
  }
  log_line(LogLevel::kInfo, "guest " + config_.name + " restarts");
  Status restarted = board_->restart(machine_);
  if (restarted) restarted = give_generation();
  if (restarted) return {};
  log_line(LogLevel::kWarning, "guest " + config_.name + " stops: " + restarted.error().to_text());
  MutexLock lock(mutex_);
  // One that cannot restart here has ended in order.
  const bool known = restarted.error().code == ErrorCode::kUnsupported;
  end_now(known ? VmmState::kStopped : VmmState::kFailed,
          known ? std::nullopt : std::optional<Error>(restarted.error()));
  return restarted;
}

}  // namespace migrate::vmm
