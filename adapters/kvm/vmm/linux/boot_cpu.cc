#include "adapters/kvm/vmm/linux/boot_cpu.hpp"

#include <cstring>
#include <span>

#include "adapters/kvm/vmm/devices/power_ports.hpp"
#include "adapters/kvm/vmm/linux/boot_protocol.hpp"
#include "adapters/kvm/vmm/linux/memory_map.hpp"

namespace migrate::vmm {
namespace {

// Intel's SDM, volume 3: 4.5 for page tables, 3.4.5 for descriptors, 2.5 for control registers.
constexpr std::uint64_t kPresent = 1;
constexpr std::uint64_t kWritable = 2;
constexpr std::uint64_t kLargePage = 1 << 7;
constexpr std::uint64_t kLargePageBytes = 2 << 20;
constexpr std::uint64_t kEntriesPerTable = 512;
constexpr std::uint64_t kDirectories = 4;  // A GiB each.

constexpr std::uint64_t kCr0Protected = 1 << 0;
constexpr std::uint64_t kCr0Extension = 1 << 4;
constexpr std::uint64_t kCr0NumericErrors = 1 << 5;
constexpr std::uint64_t kCr0Paging = 1ull << 31;
constexpr std::uint64_t kCr4Pae = 1 << 5;
constexpr std::uint64_t kEferLongEnabled = 1 << 8;
constexpr std::uint64_t kEferLongActive = 1 << 10;
constexpr std::uint64_t kFlagsAlwaysSet = 2;

// Null, null, code, data, task state.
constexpr std::uint16_t kTaskSelector = 0x20;
constexpr std::uint64_t kGdt[] = {0, 0, 0x00af'9b00'0000'ffff, 0x00cf'9300'0000'ffff,
                                  0x0000'8b00'0000'0067};

constexpr std::uint32_t kMsrMiscEnable = 0x1a0;
constexpr std::uint64_t kFastStrings = 1;
constexpr std::uint32_t kMsrMtrrDefaultType = 0x2ff;
constexpr std::uint64_t kMtrrEnabled = 1 << 11;
constexpr std::uint64_t kWriteBack = 6;

kvm_segment flat(std::uint16_t selector, std::uint8_t type, bool code) {
  kvm_segment segment{};
  segment.limit = 0xffff'ffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.s = 1;
  segment.g = 1;
  segment.l = code ? 1 : 0;
  segment.db = code ? 0 : 1;
  return segment;
}

}  // namespace

std::vector<std::byte> boot_page_tables() {
  std::vector<std::uint64_t> entries((2 + kDirectories) * kEntriesPerTable);
  const auto table = [](std::uint64_t number) {
    return (kPageTablesAddress.value + number * kPageSize) | kPresent | kWritable;
  };
  entries[0] = table(1);
  for (std::uint64_t i = 0; i < kDirectories; ++i) entries[kEntriesPerTable + i] = table(2 + i);
  for (std::uint64_t i = 0; i < kDirectories * kEntriesPerTable; ++i) {
    entries[2 * kEntriesPerTable + i] = i * kLargePageBytes | kPresent | kWritable | kLargePage;
  }
  const auto bytes = std::as_bytes(std::span(entries));
  return {bytes.begin(), bytes.end()};
}

std::vector<std::byte> boot_gdt() {
  const auto bytes = std::as_bytes(std::span(kGdt));
  return {bytes.begin(), bytes.end()};
}

std::vector<std::byte> reset_vector_code() {
  constexpr std::uint16_t kPort = kPowerPort + PowerPorts::kReset;
  constexpr std::uint8_t kCode[] = {
      0xba,       kPort & 0xff,
      kPort >> 8,                           // mov dx, port
      0xb0,       PowerPorts::kResetValue,  // mov al, value
      0xee,                                 // out dx, al
      0xfa,                                 // cli
      0xf4,                                 // hlt
      0xeb,       0xfd,                     // jmp to the hlt
  };
  static_assert(kResetVector.value + sizeof kCode <= kFirmwareAddress.value + kFirmwareBytes);
  const auto bytes = std::as_bytes(std::span(kCode));
  return {bytes.begin(), bytes.end()};
}

kvm_regs boot_regs(std::uint64_t kernel_address) {
  kvm_regs regs{};
  regs.rip = kernel_address + linux_boot::kEntry64;
  regs.rsi = kBootParamsAddress.value;
  regs.rsp = kBootStackEnd.value;
  regs.rflags = kFlagsAlwaysSet;
  return regs;
}

void set_boot_sregs(kvm_sregs& sregs) {
  sregs.cs = flat(linux_boot::kCodeSelector, 0xb, true);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss =
      flat(linux_boot::kDataSelector, 0x3, false);
  sregs.tr = {};
  sregs.tr.selector = kTaskSelector;
  sregs.tr.limit = 0x67;
  sregs.tr.type = 0xb;
  sregs.tr.present = 1;
  sregs.ldt = {};
  sregs.ldt.unusable = 1;
  sregs.gdt.base = kGdtAddress.value;
  sregs.gdt.limit = sizeof kGdt - 1;
  sregs.idt.base = 0;
  sregs.idt.limit = 0;
  sregs.cr0 = kCr0Protected | kCr0Extension | kCr0NumericErrors | kCr0Paging;
  sregs.cr3 = kPageTablesAddress.value;
  sregs.cr4 = kCr4Pae;
  sregs.efer = kEferLongEnabled | kEferLongActive;
  std::memset(sregs.interrupt_bitmap, 0, sizeof sregs.interrupt_bitmap);
}

std::array<BootMsr, 2> boot_msrs() {
  return {{{kMsrMiscEnable, kFastStrings}, {kMsrMtrrDefaultType, kMtrrEnabled | kWriteBack}}};
}

}  // namespace migrate::vmm
