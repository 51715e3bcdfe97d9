// Puts a Linux kernel and all it is started with into a guest's memory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "adapters/kvm/vmm/linux/acpi.hpp"
#include "migrate/kvm_slot.hpp"
#include "migrate/result.hpp"
#include "migrate/trackers.hpp"

namespace migrate::vmm {

struct LinuxFiles {
  std::string kernel;  ///< A bzImage.
  std::string initrd;  ///< Empty: none.
  std::string command_line;
};

/// Kernel, initrd, command line, boot parameters, ACPI tables, page tables and GDT, into fresh
/// memory (the first MiB all zero) of `slots`. What boot_regs() wants: the kernel's address.
/// kNotFound, kPermission, kInvalidArgument, kIo. `writes`: where what was written is marked.
[[nodiscard]] Result<std::uint64_t> load_linux(std::span<const KvmMemorySlot> slots,
                                               const LinuxFiles& files, const AcpiMachine& machine,
                                               std::shared_ptr<SoftwareBitmap> writes = nullptr);

}  // namespace migrate::vmm
