// Where in a Linux guest's address space this machine has what: the same at source and target, or
// a guest could not move.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "adapters/kvm/vmm/linux/bzimage.hpp"
#include "migrate/kvm_slot.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

// Below 1 MiB, as on a PC. Only the guest's first instructions need these.
inline constexpr GuestAddr kGdtAddress{0x500};
inline constexpr GuestAddr kBootParamsAddress{0x7000};
inline constexpr GuestAddr kBootStackEnd{0x9000};
inline constexpr GuestAddr kPageTablesAddress{0x9000};
inline constexpr GuestAddr kCommandLineAddress{0x20000};
inline constexpr std::uint64_t kCommandLineRoom = 0x10000;
inline constexpr std::uint64_t kLowRamEnd = 0x9fc00;  ///< Where a PC's BIOS begins its own data.
/// A PC's BIOS, so no RAM for the guest: ACPI tables, and at its end the reset vector.
inline constexpr GuestAddr kFirmwareAddress{0xe0000};
inline constexpr std::uint64_t kFirmwareBytes = 0x20000;
inline constexpr GuestAddr kAcpiAddress = kFirmwareAddress;
/// A page for the generation id alone, so that nothing is read with it.
inline constexpr GuestAddr kGenerationAddress{0xfe000};
inline constexpr GuestAddr kResetVector{0xffff0};
inline constexpr GuestAddr kHighRam{0x100000};

/// In the hole below 4 GiB. Each virtio device has a page and an interrupt of its own.
inline constexpr GuestAddr kVirtioAddress{0xd000'0000};
/// The I/O APIC's inputs that no device of a PC has.
inline constexpr std::uint32_t kVirtioInterrupt = 16;
inline constexpr std::uint32_t kVirtioDevicesMax = 8;
/// Edges of it say that the generation id has changed. A PC's is ACPI's own, which has none here.
inline constexpr std::uint32_t kGenerationInterrupt = 9;

// Ports.
inline constexpr std::uint16_t kPanicPort = 0x505;  ///< Where QEMU has its pvpanic.
inline constexpr std::uint16_t kPowerPort = 0x600;  ///< Sleep control, sleep status, reset.

struct E820Entry {
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
  std::uint32_t type = 0;
  friend bool operator==(const E820Entry&, const E820Entry&) = default;
};

/// Of memory in `slots`, the first of which begins at 0 and is larger than 1 MiB.
[[nodiscard]] std::vector<E820Entry> e820_map(std::span<const KvmMemorySlot> slots);

struct LinuxPlan {
  std::uint64_t kernel_address = 0;
  std::uint64_t initrd_address = 0;
  std::uint64_t initrd_bytes = 0;  ///< 0: there is none.
};

/// Where kernel and initrd go, in the first slot. kInvalidArgument when they do not fit.
[[nodiscard]] Result<LinuxPlan> plan_linux(const BzImage& image, std::uint64_t initrd_bytes,
                                           std::span<const KvmMemorySlot> slots);

}  // namespace migrate::vmm
