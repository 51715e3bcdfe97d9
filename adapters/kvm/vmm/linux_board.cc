#include "adapters/kvm/vmm/linux_board.hpp"

#include <linux/serial_reg.h>

#include <algorithm>
#include <array>
#include <utility>

#include "adapters/kvm/vmm/irq_line.hpp"
#include "adapters/kvm/vmm/linux/load_linux.hpp"
#include "adapters/kvm/vmm/linux/memory_map.hpp"
#include "adapters/kvm/vmm/linux_cpus.hpp"
#include "base/log.hpp"

namespace migrate::vmm {
Result<std::unique_ptr<Board>> LinuxBoard::create(const VmmConfig& config, const Machine& machine,
                                                  std::span<const KvmMemorySlot> slots,
                                                  Console& console, BoardEvents& events) {
  if (!machine.shape().irqchip) {
    return make_error(
               ErrorCode::kUnsupported,
               "a Linux guest needs KVM's own interrupt controllers, and this host's KVM has "
               "none")
        .advise("use a host whose KVM has them (see `migrate doctor`)");
  }
  MIGRATE_ASSIGN(FreshCpus fresh_cpus, FreshCpus::read(machine));
  std::unique_ptr<LinuxBoard> board(
      new LinuxBoard(config, machine, slots, std::move(fresh_cpus), console, events));
  if (config.linux_guest->console) {
    MIGRATE_ASSIGN(board->host_console_, HostConsole::open(*config.linux_guest->console));
  }
  MIGRATE_TRY(board->add_devices(machine));
  return std::unique_ptr<Board>(std::move(board));
}

LinuxBoard::LinuxBoard(const VmmConfig& config, const Machine& machine,
                       std::span<const KvmMemorySlot> slots, FreshCpus fresh_cpus, Console& console,
                       BoardEvents& events)
    : config_(config),
      slots_(slots.begin(), slots.end()),
      fresh_cpus_(std::move(fresh_cpus)),
      writes_(track_writes_to(slots)),
      ram_(slots_, writes_),
      console_(console),
      events_(events),
      generation_line_(std::make_unique<KvmLine>(machine.vm_fd(), kGenerationInterrupt)),
      serial_line_(std::make_unique<KvmLine>(machine.vm_fd(), Serial16550::kInterrupt)),
      serial_(*serial_line_, [this](std::span<const std::byte> bytes) { print(bytes); }),
      panic_([this](PanicEvent event) { on_panic(event); }),
      power_([this](PowerEvent event) {
        return event == PowerEvent::kOff ? events_.on_switched_off() : events_.on_restart_wanted();
      }) {}

Status LinuxBoard::add_devices(const Machine& machine) {
  MIGRATE_TRY(ports_.add(Serial16550::kPort, Serial16550::kRegisters, serial_));
  MIGRATE_TRY(ports_.add(kPanicPort, 1, panic_));
  MIGRATE_TRY(ports_.add(kPowerPort, PowerPorts::kPorts, power_));
  const auto make_line = [&machine](std::uint32_t number) {
    return std::make_unique<KvmLine>(machine.vm_fd(), number);
  };
  MIGRATE_ASSIGN(devices_, VirtioDevices::create(config_, ram_, make_line, memory_));
  for (MovableDevice* device : devices_->movable()) movable_.add(*device);
  movable_.add(serial_);
  return {};
}

Status LinuxBoard::boot(Machine& machine) {
  MIGRATE_TRY(set_linux_cpuids(machine));
  return load_and_enter(machine);
}

Status LinuxBoard::load_and_enter(const Machine& machine) {
  const LinuxGuest& guest = *config_.linux_guest;
  const AcpiMachine acpi{config_.vcpus, static_cast<std::uint32_t>(devices_->count())};
  MIGRATE_ASSIGN(
      const std::uint64_t kernel,
      load_linux(slots_, {guest.kernel, guest.initrd, guest.command_line}, acpi, writes_));
  return enter_linux(machine, kernel);
}

Status LinuxBoard::restart(Machine& machine) {
  if (config_.linux_guest->kernel.empty()) {
    return make_error(ErrorCode::kUnsupported,
                      "the guest wants to restart, and its kernel is not known at this host")
        .advise(
            "start it anew with `migrate run`; `migrate recv --kernel` lets the next one "
            "restart");
  }
  devices_->reset();
  reset_serial();
  MIGRATE_TRY(fresh_cpus_.restore(machine));
  // Loading counts on zeroes there; beyond, a kernel does not mind what it finds.
  const std::vector<std::byte> zeroes(kHighRam.value);
  MIGRATE_CHECK(ram_.write(GuestAddr{0}, zeroes));
  return load_and_enter(machine);
}

/// As a driver that finds the port in whatever state.
void LinuxBoard::reset_serial() {
  constexpr std::pair<std::uint64_t, unsigned> kWrites[] = {
      {UART_LCR, 0},
      {UART_IER, 0},
      {UART_MCR, 0},
      {UART_FCR, UART_FCR_CLEAR_RCVR | UART_FCR_CLEAR_XMIT}};
  for (const auto& [offset, value] : kWrites) {
    const auto byte = static_cast<std::byte>(value);
    serial_.write(offset, std::span(&byte, 1));
  }
}

std::chrono::microseconds LinuxBoard::write_port(std::uint32_t, std::uint16_t port,
                                                 std::span<const std::byte> from) {
  ports_.write(port, from);
  return std::chrono::microseconds(0);
}

void LinuxBoard::read_port(std::uint16_t port, std::span<std::byte> into) {
  ports_.read(port, into);
}

// Linux looks for hardware that a PC may have: nothing answers, and it goes on.
bool LinuxBoard::write_memory(std::uint64_t address, std::span<const std::byte> from) {
  memory_.write(address, from);
  return true;
}

bool LinuxBoard::read_memory(std::uint64_t address, std::span<std::byte> into) {
  memory_.read(address, into);
  return true;
}

void LinuxBoard::close_input() {
  MutexLock lock(input_mutex_);
  input_open_ = false;
}

void LinuxBoard::stand_for_good(SteadyTime deadline) {
  close_input();
  movable_.stand_for_good(deadline);
  devices_->close_ports();
}

Status LinuxBoard::quiesce(SteadyTime deadline) {
  close_input();
  Status quiet = movable_.quiesce(deadline);
  if (!quiet) MIGRATE_TRY(resume());
  return quiet;
}

Status LinuxBoard::resume() {
  // First: it may fail, and then nothing has begun to work.
  if (host_console_ != nullptr && !std::exchange(input_started_, true)) {
    MIGRATE_TRY(host_console_->start_input(
        [this](std::span<const std::byte> bytes) { return console_input(bytes); }));
  }
  movable_.resume();
  MutexLock lock(input_mutex_);
  input_open_ = true;
  return {};
}

Result<GuestStats> LinuxBoard::stats() const {
  GuestStats stats;
  stats.vcpus.resize(config_.vcpus);
  for (VcpuStats& vcpu : stats.vcpus) vcpu.workload = "linux";
  return stats;
}

std::string LinuxBoard::console_terminal() const {
  return host_console_ == nullptr ? "" : host_console_->terminal();
}

std::size_t LinuxBoard::console_input(std::span<const std::byte> bytes) {
  MutexLock lock(input_mutex_);
  return input_open_ ? serial_.input(bytes) : 0;
}

std::optional<GuestAddr> LinuxBoard::generation_address() const { return kGenerationAddress; }

/// An edge: the guest's handler has nothing to acknowledge. A kernel that has not got to its driver
/// yet has the input masked, and reads the id when it does.
void LinuxBoard::tell_of_new_identity() {
  generation_line_->set(true);
  generation_line_->set(false);
}

void LinuxBoard::print(std::span<const std::byte> bytes) {
  for (const std::byte byte : bytes) console_.put(static_cast<char>(byte));
  if (host_console_ != nullptr) host_console_->write(bytes);
}

void LinuxBoard::on_panic(PanicEvent event) {
  if (event == PanicEvent::kCrashKernel) {
    log_line(LogLevel::kWarning,
             "guest " + config_.name + ": its kernel panicked, and another takes over to dump it");
    return;
  }
  events_.on_crashed(make_error(ErrorCode::kGuest, "the guest's kernel panicked")
                         .advise("look at what it printed last on its console"));
}

}  // namespace migrate::vmm
