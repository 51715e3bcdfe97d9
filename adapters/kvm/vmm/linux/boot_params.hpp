// The boot parameters ("zero page") a Linux kernel finds what it needs by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "adapters/kvm/vmm/linux/bzimage.hpp"
#include "adapters/kvm/vmm/linux/memory_map.hpp"
#include "migrate/memory.hpp"

namespace migrate::vmm {

/// 4096 bytes, for kBootParamsAddress. The command line is at kCommandLineAddress, ACPI's root at
/// `rsdp`.
[[nodiscard]] std::vector<std::byte> make_boot_params(const BzImage& image, const LinuxPlan& plan,
                                                      std::span<const E820Entry> map,
                                                      GuestAddr rsdp);

}  // namespace migrate::vmm
