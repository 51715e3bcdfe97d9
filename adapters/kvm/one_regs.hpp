// Registers that KVM names by number (KVM_GET_ONE_REG): on x86 since Linux 6.18, for what has no
// place elsewhere, such as a guest's shadow stack pointer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "migrate/result.hpp"

namespace migrate::kvm {

struct OneReg {
  std::uint64_t id = 0;
  std::uint64_t value = 0;
};

/// Far above what a kernel lists (one, today); bounds what we allocate for it.
inline constexpr std::size_t kOneRegsMax = 64;

/// All that the kernel lists for the vCPU, which depends on its CPUID; none where it knows none.
Status read_one_regs(int vcpu_fd, std::vector<OneReg>& regs);
Status write_one_regs(int vcpu_fd, std::span<const OneReg> regs);

}  // namespace migrate::kvm
