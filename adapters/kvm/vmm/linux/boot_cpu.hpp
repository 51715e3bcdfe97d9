// The state in which the first vCPU enters a 64-bit kernel: long mode, memory mapped one to one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "adapters/kvm/vmm/kvm_api.hpp"

namespace migrate::vmm {

/// For kPageTablesAddress: the first 4 GiB, in pages of 2 MiB. Kernel, initrd and parameters lie
/// below; the kernel makes tables of its own before it looks further.
[[nodiscard]] std::vector<std::byte> boot_page_tables();
/// For kGdtAddress.
[[nodiscard]] std::vector<std::byte> boot_gdt();

/// For kResetVector: the reset of power_ports.hpp in real mode. On machines without ACPI hardware
/// Linux does not restart by ACPI's reset register: it asks EFI, which there is none of, and then
/// jumps to where a PC's BIOS begins.
[[nodiscard]] std::vector<std::byte> reset_vector_code();

[[nodiscard]] kvm_regs boot_regs(std::uint64_t kernel_address);
/// Changes what KVM_GET_SREGS said of a fresh vCPU; the local APIC's base stays.
void set_boot_sregs(kvm_sregs& sregs);

struct BootMsr {
  std::uint32_t index = 0;
  std::uint64_t value = 0;
};
/// What firmware would have set. All vCPUs; a host whose KVM lacks one does without.
[[nodiscard]] std::array<BootMsr, 2> boot_msrs();

}  // namespace migrate::vmm
