// DemoBoard: the demo guest's machine: four ports, and no devices.
#pragma once

#include "adapters/kvm/vmm/board.hpp"
#include "adapters/kvm/vmm/console.hpp"
#include "adapters/kvm/vmm/guest_memory.hpp"

namespace migrate::vmm {

class DemoBoard final : public Board {
 public:
  /// All must outlive it.
  DemoBoard(const VmmConfig& config, const GuestMemory& memory, Console& console,
            BoardEvents& events)
      : config_(config), memory_(memory), console_(console), events_(events) {}

  Status boot(Machine& machine) override;
  Status restart(Machine& machine) override;

  std::chrono::microseconds write_port(std::uint32_t vcpu, std::uint16_t port,
                                       std::span<const std::byte> from) override;
  void read_port(std::uint16_t port, std::span<std::byte> into) override;
  // Its page tables map nothing but memory, so an access beyond is a fault of its own.
  bool write_memory(std::uint64_t, std::span<const std::byte>) override { return false; }
  bool read_memory(std::uint64_t, std::span<std::byte>) override { return false; }

  void prepare_leaving() override {}
  Status prepare_pause(SteadyTime) override { return {}; }
  Status quiesce(SteadyTime) override { return {}; }
  void stand_for_good(SteadyTime) override {}
  Status resume() override { return {}; }

  Status save(StateWriter&) override { return {}; }
  void begin_load() override {}
  Status load(const SectionInfo& section, StateReader&) override {
    return StateReader::skip_unknown(section);
  }
  Status check_loaded() const override { return {}; }

  Status take_disks() override { return {}; }
  Status give_up_disks(SteadyTime) override { return {}; }

  Result<GuestStats> stats() const override;
  std::string console_terminal() const override { return {}; }
  std::size_t console_input(std::span<const std::byte>) override { return 0; }
  std::shared_ptr<SoftwareBitmap> writes() const override { return nullptr; }

 private:
  const VmmConfig& config_;
  const GuestMemory& memory_;
  Console& console_;
  BoardEvents& events_;
};

}  // namespace migrate::vmm
