// Serial16550: the UART of a PC's COM1, which Linux knows as a 16550A.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string>

#include "adapters/kvm/vmm/devices/io_device.hpp"
#include "base/mutex.hpp"

namespace migrate::vmm {

/// Takes what the guest sends. Called from vCPU threads, one at a time, and must not block: the
/// vCPU waits for it.
using SerialOutput = std::function<void(std::span<const std::byte>)>;

/// National Semiconductor's PC16550D, with a line of infinite speed: what is written is sent at
/// once, so the transmitter is always empty. Any thread may call any method.
class Serial16550 final : public IoDevice, public MovableDevice {
 public:
  static constexpr std::uint64_t kPort = 0x3f8;  ///< COM1.
  static constexpr std::uint32_t kInterrupt = 4;
  static constexpr std::uint64_t kRegisters = 8;
  static constexpr std::size_t kFifoBytes = 16;
  /// Input the guest has not read: a terminal's line of the longest kind (N_TTY's buffer).
  static constexpr std::size_t kWaitingBytesMax = 4096;

  /// `line` must outlive it.
  Serial16550(InterruptLine& line, SerialOutput output) : line_(line), output_(std::move(output)) {}

  void read(std::uint64_t offset, std::span<std::byte> into) override MIGRATE_EXCLUDES(mutex_);
  void write(std::uint64_t offset, std::span<const std::byte> from) override
      MIGRATE_EXCLUDES(mutex_);

  /// Gives the guest input. How much was taken; the rest is to be offered again, there is no room.
  std::size_t input(std::span<const std::byte> bytes) MIGRATE_EXCLUDES(mutex_);

  [[nodiscard]] std::string section_name() const override { return "vmm.serial"; }
  Status save(StateWriter& writer) override MIGRATE_EXCLUDES(mutex_);
  Status load(const SectionInfo& section, StateReader& reader) override MIGRATE_EXCLUDES(mutex_);
  /// It has no thread: with the vCPUs standing it stands.
  Status quiesce(SteadyTime) override { return {}; }
  void resume() override MIGRATE_EXCLUDES(mutex_);

 private:
  struct Registers {
    std::uint8_t interrupt_enable = 0;
    std::uint8_t fifo_control = 0;  ///< Of the written value, what is kept.
    std::uint8_t line_control = 0;
    std::uint8_t modem_control = 0;
    std::uint8_t line_errors = 0;  ///< Of the line status, what reading it clears.
    std::uint8_t modem_status = 0;
    std::uint8_t scratch = 0;
    std::uint8_t divisor_low = 12;  ///< 9600 baud.
    std::uint8_t divisor_high = 0;
    std::uint8_t transmitter_empty = 0;  ///< 1: its interrupt waits to be seen.
  };
  /// In the order they are saved in.
  static std::array<std::uint8_t*, 10> fields(Registers& registers);

  [[nodiscard]] std::uint8_t read_register(std::uint64_t offset) MIGRATE_REQUIRES(mutex_);
  void write_register(std::uint64_t offset, std::uint8_t value) MIGRATE_REQUIRES(mutex_);
  void write_fifo_control(std::uint8_t value) MIGRATE_REQUIRES(mutex_);
  void write_modem_control(std::uint8_t value) MIGRATE_REQUIRES(mutex_);
  void transmit(std::uint8_t value) MIGRATE_REQUIRES(mutex_);
  void receive(std::uint8_t value) MIGRATE_REQUIRES(mutex_);
  [[nodiscard]] std::uint8_t take_received() MIGRATE_REQUIRES(mutex_);
  void take_waiting() MIGRATE_REQUIRES(mutex_);
  /// The interrupt of the highest priority, as IIR names it.
  [[nodiscard]] std::uint8_t interrupt() const MIGRATE_REQUIRES(mutex_);
  void update_line() MIGRATE_REQUIRES(mutex_);
  [[nodiscard]] bool divisor_latch() const MIGRATE_REQUIRES(mutex_);
  [[nodiscard]] bool loopback() const MIGRATE_REQUIRES(mutex_);
  [[nodiscard]] std::size_t depth() const MIGRATE_REQUIRES(mutex_);

  InterruptLine& line_;
  const SerialOutput output_;
  Mutex mutex_;
  Registers registers_ MIGRATE_GUARDED_BY(mutex_);
  std::deque<std::uint8_t> received_ MIGRATE_GUARDED_BY(mutex_);  ///< The UART's own FIFO.
  std::deque<std::uint8_t> waiting_ MIGRATE_GUARDED_BY(mutex_);   ///< Still on the line.
};

}  // namespace migrate::vmm
