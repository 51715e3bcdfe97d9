#include "adapters/kvm/vmm/linux/boot_cpu.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <span>
#include <string>

#include "adapters/kvm/vmm/linux/boot_cpuid.hpp"
#include "adapters/kvm/vmm/linux/boot_protocol.hpp"
#include "adapters/kvm/vmm/linux/memory_map.hpp"

namespace migrate::vmm::test {
namespace {

std::uint64_t entry(std::span<const std::byte> tables, std::uint64_t address) {
  std::uint64_t value = 0;
  std::memcpy(&value, tables.data() + (address - kPageTablesAddress.value), sizeof value);
  return value;
}

/// As the processor does it.
std::optional<std::uint64_t> translate(std::span<const std::byte> tables, std::uint64_t address) {
  constexpr std::uint64_t kAddress = 0x000f'ffff'ffff'f000;
  std::uint64_t table = kPageTablesAddress.value;
  for (const unsigned shift : {39u, 30u, 21u}) {
    const std::uint64_t value = entry(tables, table + (address >> shift & 511) * 8);
    if ((value & 3) != 3) return std::nullopt;
    if ((value & 1 << 7) != 0) {
      const std::uint64_t inside = (std::uint64_t{1} << shift) - 1;
      return (value & kAddress & ~inside) | (address & inside);
    }
    table = value & kAddress;
  }
  return std::nullopt;
}

TEST(BootCpu, FourGigabytesAreMappedOneToOne) {
  const auto tables = boot_page_tables();
  ASSERT_LE(kPageTablesAddress.value + tables.size(), kCommandLineAddress.value);
  for (std::uint64_t address = 0; address < 4ull << 30; address += (1 << 20) + 0x123) {
    ASSERT_EQ(translate(tables, address), address);
  }
  EXPECT_EQ(translate(tables, (4ull << 30) - 1), (4ull << 30) - 1);
  EXPECT_EQ(translate(tables, 4ull << 30), std::nullopt);
}

TEST(BootCpu, TheKernelIsEnteredAtItsLongModeEntry) {
  const kvm_regs regs = boot_regs(0x100'0000);
  EXPECT_EQ(regs.rip, 0x100'0200u);
  EXPECT_EQ(regs.rsi, kBootParamsAddress.value);
  EXPECT_EQ(regs.rflags, 2u) << "no interrupts";

  kvm_sregs sregs{};
  sregs.apic_base = 0xfee0'0900;
  set_boot_sregs(sregs);
  EXPECT_EQ(sregs.apic_base, 0xfee0'0900u);
  EXPECT_EQ(sregs.cr0, 0x8000'0031u);
  EXPECT_EQ(sregs.cr3, kPageTablesAddress.value);
  EXPECT_EQ(sregs.cr4, 0x20u);
  EXPECT_EQ(sregs.efer, 0x500u);
}

/// mov dx, 0x602; mov al, 1; out dx, al; cli; hlt; jmp -3
TEST(BootCpu, TheResetVectorWritesTheResetRegister) {
  std::string code;
  for (const std::byte byte : reset_vector_code()) code += static_cast<char>(byte);
  EXPECT_EQ(code, "\xba\x02\x06\xb0\x01\xee\xfa\xf4\xeb\xfd");
  EXPECT_EQ(kResetVector.value, 0xffff0u);
}

TEST(BootCpuid, LinuxIsToldOfItsHypervisorItsTimerAndItsProcessors) {
  kvm_cpuid_entry2 entries[3]{};
  entries[0].function = 1;
  entries[0].ebx = 0x7702'0800;
  entries[0].ecx = 0x1;
  entries[1].function = 0xb;
  entries[2].function = 0x8000'0008;
  set_linux_cpuid(entries, 3, true);
  EXPECT_EQ(entries[0].ebx, 0x0302'0800u);
  EXPECT_EQ(entries[0].ecx, 0x8100'0001u);
  EXPECT_EQ(entries[1].edx, 3u);
  EXPECT_EQ(entries[2].edx, 0u);
  entries[0].ecx = 0;
  set_linux_cpuid(entries, 0, false);
  EXPECT_EQ(entries[0].ecx, 0x8000'0000u);
  EXPECT_EQ(entries[0].ebx, 0x0002'0800u);
}

/// A segment's hidden part must be what its descriptor says, or it changes when it is loaded again.
void expect_descriptor(const std::vector<std::byte>& gdt, const kvm_segment& segment) {
  std::uint64_t descriptor = 0;
  ASSERT_LE(segment.selector + sizeof descriptor, gdt.size());
  std::memcpy(&descriptor, gdt.data() + segment.selector, sizeof descriptor);
  EXPECT_EQ(descriptor >> 40 & 0xf, segment.type);
  EXPECT_EQ(descriptor >> 44 & 1, segment.s);
  EXPECT_EQ(descriptor >> 45 & 3, segment.dpl);
  EXPECT_EQ(descriptor >> 47 & 1, segment.present);
  EXPECT_EQ(descriptor >> 53 & 1, segment.l);
  EXPECT_EQ(descriptor >> 54 & 1, segment.db);
  EXPECT_EQ(descriptor >> 55 & 1, segment.g);
  const std::uint64_t limit = (descriptor & 0xffff) | (descriptor >> 32 & 0xf0000);
  EXPECT_EQ(segment.g != 0 ? limit << 12 | 0xfff : limit, segment.limit);
  EXPECT_EQ((descriptor >> 16 & 0xff'ffff) | (descriptor >> 32 & 0xff00'0000), segment.base);
}

TEST(BootCpu, SegmentsAreThoseOfTheDescriptorTable) {
  const auto gdt = boot_gdt();
  kvm_sregs sregs{};
  set_boot_sregs(sregs);
  EXPECT_EQ(sregs.gdt.base, kGdtAddress.value);
  EXPECT_EQ(sregs.gdt.limit, gdt.size() - 1);
  EXPECT_EQ(sregs.cs.selector, linux_boot::kCodeSelector);
  EXPECT_EQ(sregs.ds.selector, linux_boot::kDataSelector);
  for (const kvm_segment& segment :
       {sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss, sregs.tr}) {
    expect_descriptor(gdt, segment);
  }
}

}  // namespace
}  // namespace migrate::vmm::test
