// The ACPI tables by which a Linux guest knows this machine (ACPI 6.5).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "migrate/memory.hpp"

namespace migrate::vmm {

struct AcpiMachine {
  std::uint32_t vcpus = 1;  ///< Their local APIC ids are their numbers.
  /// virtio devices, the first of them; see kVirtioAddress and kVirtioInterrupt.
  std::uint32_t virtio_devices = 0;
};

/// RSDP, XSDT, FADT, MADT and DSDT in one piece for kAcpiAddress, the RSDP first. The machine has
/// no ACPI hardware ("hardware-reduced"): it is switched off and reset by three ports
/// (power_ports.hpp), has no PIT, no RTC and no 8042, and interrupts from its I/O APIC alone.
[[nodiscard]] std::vector<std::byte> make_acpi_tables(const AcpiMachine& machine);

}  // namespace migrate::vmm
