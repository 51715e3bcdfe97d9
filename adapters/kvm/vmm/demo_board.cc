#include "adapters/kvm/vmm/demo_board.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "adapters/kvm/vmm/apic_id.hpp"
#include "adapters/kvm/vmm/demo_guest/card_memory.hpp"
#include "adapters/kvm/vmm/demo_guest/image.hpp"
#include "adapters/kvm/vmm/demo_image.hpp"
#include "adapters/kvm/vmm/demo_plan.hpp"
#include "adapters/kvm/vmm/demo_stats.hpp"
#include "adapters/kvm/vmm/devices/virtio_mmio.hpp"
#include "adapters/kvm/vmm/linux/memory_map.hpp"
#include "base/log.hpp"

namespace migrate::vmm {
namespace {

// What the guest may ask for in one wait, so that a wrong number does not put it to sleep.
constexpr std::chrono::microseconds kWaitMax = std::chrono::seconds(1);

/// The guest looks at its rings by itself and asks for no interrupts.
class NoLine final : public InterruptLine {
 public:
  void set(bool) noexcept override {}
};

static_assert(demo::kCardRegisters == kVirtioAddress.value);
static_assert(demo::kCardRegisterBytes == VirtioMmio::kBytes);
static_assert(demo::kCardsMax <= kVirtioDevicesMax);

}  // namespace

DemoBoard::DemoBoard(const VmmConfig& config, const GuestMemory& memory, Console& console,
                     BoardEvents& events, std::shared_ptr<SoftwareBitmap> writes)
    : config_(config),
      memory_(memory),
      console_(console),
      events_(events),
      writes_(std::move(writes)),
      ram_(memory.slots(), writes_) {}

// One without cards has nobody's writes to track but its vCPUs'.
Result<std::unique_ptr<Board>> DemoBoard::create(const VmmConfig& config, const GuestMemory& memory,
                                                 Console& console, BoardEvents& events) {
  std::unique_ptr<DemoBoard> board(
      new DemoBoard(config, memory, console, events,
                    config.nets.empty() ? nullptr : track_writes_to(memory.slots())));
  const auto make_line = [](std::uint32_t) { return std::make_unique<NoLine>(); };
  MIGRATE_ASSIGN(board->devices_,
                 VirtioDevices::create(config, board->ram_, make_line, board->bus_));
  for (MovableDevice* device : board->devices_->movable()) board->movable_.add(*device);
  return std::unique_ptr<Board>(std::move(board));
}

Status DemoBoard::boot(Machine& machine) {
  MIGRATE_ASSIGN(const std::uint32_t tsc_khz, machine.tsc_khz());
  MIGRATE_ASSIGN(const demo::ControlBlock plan, plan_demo_guest(config_, tsc_khz));
  MIGRATE_TRY(load_demo_guest(memory_, plan, config_.workload.file));
  MIGRATE_TRY(machine.set_cpuid(set_apic_id));
  for (std::uint32_t id = 0; id < config_.vcpus; ++id) {
    MIGRATE_TRY(set_demo_registers(machine.vcpus()[id].get(), id));
  }
  return {};
}

Status DemoBoard::restart(Machine&) {
  return make_error(ErrorCode::kUnsupported, "the demo guest does not restart");
}

std::chrono::microseconds DemoBoard::write_port(std::uint32_t vcpu, std::uint16_t port,
                                                std::span<const std::byte> from) {
  std::uint32_t value = 0;
  std::memcpy(&value, from.data(), std::min(from.size(), sizeof value));
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
      events_.on_switched_off();
      break;
    default:
      break;  // As on a PC, nothing answers.
  }
  return std::chrono::microseconds(0);
}

void DemoBoard::read_port(std::uint16_t, std::span<std::byte> into) {
  std::fill(into.begin(), into.end(), std::byte{0xff});
}

bool DemoBoard::write_memory(std::uint64_t address, std::span<const std::byte> from) {
  return bus_.write(address, from);
}

bool DemoBoard::read_memory(std::uint64_t address, std::span<std::byte> into) {
  return bus_.read(address, into);
}

Status DemoBoard::quiesce(SteadyTime deadline) {
  Status quiet = movable_.quiesce(deadline);
  if (!quiet) movable_.resume();
  return quiet;
}

Status DemoBoard::resume() {
  movable_.resume();
  return {};
}

/// It answers by the addresses in its control block, which it reads for each frame.
void DemoBoard::tell_of_new_identity() {
  for (std::size_t i = 0; i < config_.nets.size(); ++i) {
    if (!config_.nets[i].former_mac) continue;
    const std::uint64_t card =
        demo::kControlBlock + offsetof(demo::ControlBlock, cards) + i * sizeof(demo::CardPlan);
    const auto& mac = config_.nets[i].mac->bytes;
    MIGRATE_CHECK(
        ram_.write(GuestAddr{card + offsetof(demo::CardPlan, mac)}, std::as_bytes(std::span(mac))));
  }
}

/// Its counters, program and stacks, which each round uses, and what it knows of its cards. Page
/// tables and buffers are named by those who use them.
void DemoBoard::add_first_pages(FirstPages& pages) const {
  pages.add(GuestAddr{demo::kControlBlock}, sizeof(demo::ControlBlock));
  pages.add(GuestAddr{demo::kCounters}, config_.vcpus * sizeof(demo::VcpuCounters));
  pages.add(GuestAddr{demo::kCardCounters}, config_.nets.size() * sizeof(demo::CardCounters));
  pages.add(GuestAddr{demo::kProgram}, demo::image().size());
  pages.add(GuestAddr{demo::kStacks}, config_.vcpus * demo::kStackBytes);
  devices_->add_first_pages(pages);
  const auto plan = plan_demo_guest(config_, 0);
  if (!plan) return;
  for (const demo::CardPlan& card : plan->cards) {
    if (card.present == 0) continue;
    pages.add(GuestAddr{card.memory + offsetof(demo::CardMemory, sent)},
              sizeof(demo::CardMemory::sent));
  }
}

Result<GuestStats> DemoBoard::stats() const { return read_demo_stats(memory_, config_); }

}  // namespace migrate::vmm
