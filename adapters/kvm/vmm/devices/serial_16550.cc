#include "adapters/kvm/vmm/devices/serial_16550.hpp"

#include <linux/serial_reg.h>

#include <algorithm>

#include "adapters/kvm/vmm/section_bytes.hpp"

namespace migrate::vmm {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::uint64_t kSectionBytesMax = 8 << 10;

constexpr std::uint8_t kInterruptsMax = UART_IER_RDI | UART_IER_THRI | UART_IER_RLSI | UART_IER_MSI;
constexpr std::uint8_t kModemControlMax =
    UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT1 | UART_MCR_OUT2 | UART_MCR_LOOP;
constexpr std::uint8_t kFifoControlKept = UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_MASK;
constexpr std::uint8_t kIdentityFifos = 0xc0;  // What tells a 16550A from its forebears.
// Somebody is at the other end, ready.
constexpr std::uint8_t kPeerReady = UART_MSR_CTS | UART_MSR_DSR | UART_MSR_DCD;
constexpr std::uint8_t kModemLines = 0xf0;
constexpr std::uint8_t kModemChanges = 0x0f;

/// The modem's lines as the inputs see them when the outputs are looped to them.
std::uint8_t looped(std::uint8_t modem_control) {
  unsigned lines = 0;
  if ((modem_control & UART_MCR_RTS) != 0) lines |= UART_MSR_CTS;
  if ((modem_control & UART_MCR_DTR) != 0) lines |= UART_MSR_DSR;
  if ((modem_control & UART_MCR_OUT1) != 0) lines |= UART_MSR_RI;
  if ((modem_control & UART_MCR_OUT2) != 0) lines |= UART_MSR_DCD;
  return static_cast<std::uint8_t>(lines);
}

std::uint8_t modem_lines(std::uint8_t modem_control) {
  return (modem_control & UART_MCR_LOOP) != 0 ? looped(modem_control) : kPeerReady;
}

/// Bits of the lower half: which of the lines have changed; the ring indicator counts when it
/// falls.
std::uint8_t modem_changes(std::uint8_t before, std::uint8_t now) {
  unsigned changed = (before ^ now) & kModemLines;
  if ((now & UART_MSR_RI) != 0) changed &= ~static_cast<unsigned>(UART_MSR_RI);
  return static_cast<std::uint8_t>(changed >> 4);
}

template <typename Numbers>
std::string to_string(const Numbers& numbers) {
  return {numbers.begin(), numbers.end()};
}

}  // namespace

bool Serial16550::divisor_latch() const { return (registers_.line_control & UART_LCR_DLAB) != 0; }
bool Serial16550::loopback() const { return (registers_.modem_control & UART_MCR_LOOP) != 0; }

std::size_t Serial16550::depth() const {
  return (registers_.fifo_control & UART_FCR_ENABLE_FIFO) != 0 ? kFifoBytes : 1;
}

void Serial16550::read(std::uint64_t offset, std::span<std::byte> into) {
  MutexLock lock(mutex_);
  for (std::byte& byte : into) byte = static_cast<std::byte>(read_register(offset++));
  update_line();
}

void Serial16550::write(std::uint64_t offset, std::span<const std::byte> from) {
  MutexLock lock(mutex_);
  for (const std::byte byte : from) write_register(offset++, std::to_integer<std::uint8_t>(byte));
  update_line();
}

std::uint8_t Serial16550::read_register(std::uint64_t offset) {
  switch (offset) {
    case UART_RX:
      return divisor_latch() ? registers_.divisor_low : take_received();
    case UART_IER:
      return divisor_latch() ? registers_.divisor_high : registers_.interrupt_enable;
    case UART_IIR: {
      const std::uint8_t cause = interrupt();
      // Being told of it is what ends this one.
      if (cause == UART_IIR_THRI) registers_.transmitter_empty = 0;
      return static_cast<std::uint8_t>(cause | (depth() > 1 ? kIdentityFifos : 0));
    }
    case UART_LCR:
      return registers_.line_control;
    case UART_MCR:
      return registers_.modem_control;
    case UART_LSR: {
      const unsigned errors = std::exchange(registers_.line_errors, std::uint8_t{0});
      return static_cast<std::uint8_t>(UART_LSR_TEMT | UART_LSR_THRE | errors |
                                       (received_.empty() ? 0 : UART_LSR_DR));
    }
    case UART_MSR: {
      const unsigned changes = registers_.modem_status & kModemChanges;
      registers_.modem_status &= kModemLines;
      return static_cast<std::uint8_t>(modem_lines(registers_.modem_control) | changes);
    }
    case UART_SCR:
      return registers_.scratch;
    default:
      return 0xff;
  }
}

void Serial16550::write_register(std::uint64_t offset, std::uint8_t value) {
  switch (offset) {
    case UART_TX:
      if (divisor_latch()) {
        registers_.divisor_low = value;
      } else {
        transmit(value);
      }
      return;
    case UART_IER:
      if (divisor_latch()) {
        registers_.divisor_high = value;
        return;
      }
      // The transmitter is empty, and says so to whoever begins to listen.
      if ((value & ~registers_.interrupt_enable & UART_IER_THRI) != 0) {
        registers_.transmitter_empty = 1;
      }
      registers_.interrupt_enable = value & kInterruptsMax;
      return;
    case UART_FCR:
      return write_fifo_control(value);
    case UART_LCR:
      registers_.line_control = value;
      return;
    case UART_MCR:
      return write_modem_control(value);
    case UART_SCR:
      registers_.scratch = value;
      return;
    default:
      return;  // LSR and MSR are read only.
  }
}

void Serial16550::write_fifo_control(std::uint8_t value) {
  const bool switched = ((value ^ registers_.fifo_control) & UART_FCR_ENABLE_FIFO) != 0;
  if (switched || (value & UART_FCR_CLEAR_RCVR) != 0) received_.clear();
  registers_.fifo_control =
      (value & UART_FCR_ENABLE_FIFO) != 0 ? static_cast<std::uint8_t>(value & kFifoControlKept) : 0;
  take_waiting();
}

void Serial16550::write_modem_control(std::uint8_t value) {
  const std::uint8_t before = modem_lines(registers_.modem_control);
  registers_.modem_control = value & kModemControlMax;
  const std::uint8_t now = modem_lines(registers_.modem_control);
  registers_.modem_status = static_cast<std::uint8_t>(
      now | (registers_.modem_status & kModemChanges) | modem_changes(before, now));
  take_waiting();
}

void Serial16550::transmit(std::uint8_t value) {
  registers_.transmitter_empty = 1;
  if (loopback()) return receive(value);
  const auto byte = static_cast<std::byte>(value);
  output_(std::span(&byte, 1));
}

void Serial16550::receive(std::uint8_t value) {
  if (received_.size() >= depth()) {
    registers_.line_errors |= UART_LSR_OE;
    return;
  }
  received_.push_back(value);
}

std::uint8_t Serial16550::take_received() {
  if (received_.empty()) return 0;
  const std::uint8_t value = received_.front();
  received_.pop_front();
  take_waiting();
  return value;
}

/// The line is off while the UART hears itself.
void Serial16550::take_waiting() {
  while (!loopback() && !waiting_.empty() && received_.size() < depth()) {
    received_.push_back(waiting_.front());
    waiting_.pop_front();
  }
}

std::uint8_t Serial16550::interrupt() const {
  const std::uint8_t enabled = registers_.interrupt_enable;
  if ((enabled & UART_IER_RLSI) != 0 && registers_.line_errors != 0) return UART_IIR_RLSI;
  if ((enabled & UART_IER_RDI) != 0 && !received_.empty()) return UART_IIR_RDI;
  if ((enabled & UART_IER_THRI) != 0 && registers_.transmitter_empty != 0) return UART_IIR_THRI;
  if ((enabled & UART_IER_MSI) != 0 && (registers_.modem_status & kModemChanges) != 0) {
    return UART_IIR_MSI;
  }
  return UART_IIR_NO_INT;
}

void Serial16550::update_line() { line_.set(interrupt() != UART_IIR_NO_INT); }

std::size_t Serial16550::input(std::span<const std::byte> bytes) {
  MutexLock lock(mutex_);
  const std::size_t taken = std::min(bytes.size(), kWaitingBytesMax - waiting_.size());
  for (const std::byte byte : bytes.first(taken)) {
    waiting_.push_back(std::to_integer<std::uint8_t>(byte));
  }
  take_waiting();
  update_line();
  return taken;
}

std::array<std::uint8_t*, 10> Serial16550::fields(Registers& registers) {
  return {&registers.interrupt_enable, &registers.fifo_control, &registers.line_control,
          &registers.modem_control,    &registers.line_errors,  &registers.modem_status,
          &registers.scratch,          &registers.divisor_low,  &registers.divisor_high,
          &registers.transmitter_empty};
}

/// The registers, a byte each; received and waiting input as texts.
Status Serial16550::save(StateWriter& writer) {
  SectionBytes bytes;
  {
    MutexLock lock(mutex_);
    for (const std::uint8_t* field : fields(registers_)) bytes.number(*field);
    bytes.text(to_string(received_)).text(to_string(waiting_));
  }
  return writer.section({section_name(), kVersion, true}, bytes.take());
}

Status Serial16550::load(const SectionInfo& section, StateReader& reader) {
  if (section.version != kVersion) return StateReader::skip_unknown(section);
  MIGRATE_ASSIGN(const auto body, reader.read_all(kSectionBytesMax));
  SectionCursor cursor(section.name, body);
  Registers loaded;
  for (std::uint8_t* field : fields(loaded)) {
    MIGRATE_ASSIGN(*field, cursor.number<std::uint8_t>());
  }
  const bool possible = (loaded.interrupt_enable & ~kInterruptsMax) == 0 &&
                        (loaded.fifo_control & ~kFifoControlKept) == 0 &&
                        (loaded.modem_control & ~kModemControlMax) == 0 &&
                        (loaded.line_errors & ~UART_LSR_OE) == 0 && loaded.transmitter_empty <= 1;
  if (!possible) return cursor.bad("has registers that no UART has");
  MIGRATE_ASSIGN(const std::string received, cursor.text(kFifoBytes));
  MIGRATE_ASSIGN(const std::string waiting, cursor.text(kWaitingBytesMax));
  MIGRATE_TRY(cursor.end());
  MutexLock lock(mutex_);
  registers_ = loaded;
  received_.assign(received.begin(), received.end());
  waiting_.assign(waiting.begin(), waiting.end());
  update_line();
  return {};
}

void Serial16550::resume() {
  MutexLock lock(mutex_);
  update_line();
}

}  // namespace migrate::vmm
