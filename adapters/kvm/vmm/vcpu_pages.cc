#include "adapters/kvm/vmm/vcpu_pages.hpp"

#include <sys/ioctl.h>

#include <cstdint>

#include "adapters/kvm/vmm/kvm_api.hpp"

namespace migrate::vmm {
namespace {

// Intel SDM vol. 3, 4.5: paging in long mode.
constexpr std::uint64_t kPaging = 1u << 31;      // CR0.PG
constexpr std::uint64_t kLongMode = 1u << 10;    // EFER.LMA
constexpr std::uint64_t kFiveLevels = 1u << 12;  // CR4.LA57
constexpr std::uint64_t kPresent = 1u << 0;
constexpr std::uint64_t kLarge = 1u << 7;
constexpr std::uint64_t kAddressMask = 0x000f'ffff'ffff'f000;
constexpr unsigned kBitsPerLevel = 9;
constexpr unsigned kPageBits = 12;
// Below the stack pointer lies a red zone, above it the frames it returns to.
constexpr std::uint64_t kStackBelow = 128;
constexpr std::uint64_t kStackAbove = 4096;

/// Follows a linear address through the tables at `root`, naming each page on the way.
class Walk {
 public:
  Walk(const GuestRam& ram, FirstPages& pages, const kvm_sregs& sregs)
      : ram_(ram),
        pages_(pages),
        root_(sregs.cr3 & kAddressMask),
        levels_((sregs.cr4 & kFiveLevels) != 0 ? 5 : 4) {}

  void to(std::uint64_t address) const {
    std::uint64_t table = root_;
    for (unsigned level = levels_; level > 0; --level) {
      const unsigned shift = kPageBits + (level - 1) * kBitsPerLevel;
      const std::uint64_t index = (address >> shift) & ((1u << kBitsPerLevel) - 1);
      pages_.add(GuestAddr{table}, kPageSize);
      const auto entry = ram_.read<std::uint64_t>(GuestAddr{table + index * sizeof table});
      if (!entry || (*entry & kPresent) == 0) return;
      table = *entry & kAddressMask;
      const bool large = level > 1 && level < 4 && (*entry & kLarge) != 0;
      if (!large) continue;
      const std::uint64_t inside = (std::uint64_t{1} << shift) - 1;
      table = (table & ~inside) | (address & inside & kAddressMask);
      break;
    }
    pages_.add(GuestAddr{table}, kPageSize);
  }

 private:
  const GuestRam& ram_;
  FirstPages& pages_;
  const std::uint64_t root_;
  const unsigned levels_;
};

}  // namespace

void add_first_pages(int vcpu_fd, const GuestRam& ram, FirstPages& pages) {
  kvm_regs regs{};
  kvm_sregs sregs{};
  if (::ioctl(vcpu_fd, KVM_GET_REGS, &regs) != 0 || ::ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) != 0) {
    return;
  }
  if ((sregs.cr0 & kPaging) == 0 || (sregs.efer & kLongMode) == 0) return;
  const Walk walk(ram, pages, sregs);
  walk.to(regs.rip);
  walk.to(regs.rsp - kStackBelow);
  walk.to(regs.rsp);
  walk.to(regs.rsp + kStackAbove);
  // What an interrupt needs: tables of the processor, and the kernel's own data of this one.
  for (const std::uint64_t base :
       {sregs.gdt.base, sregs.idt.base, sregs.tr.base, sregs.gs.base, sregs.fs.base}) {
    if (base != 0) walk.to(base);
  }
}

}  // namespace migrate::vmm
