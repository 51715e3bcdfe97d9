#include "guest.hpp"

#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <system_error>

// rbx: working set; r8: passes; r9: mailbox; r10: errors; r12 to r14: what never changes; r13: how
// far the check of it has come. It runs at privilege level 3, which every KVM can run natively.
asm(R"(
  .pushsection .rodata
  .balign 16
tiny_guest_begin:
1:  mov %rbx, %rdi
    mov $256, %ecx
2:  cmp %r8, (%rdi)
    je 3f
    inc %r10
3:  mov %r8, %rax
    xor %rdi, %rax
    cmp %rax, 4088(%rdi)
    je 4f
    inc %r10
4:  lea 1(%r8), %rax
    mov %rax, (%rdi)
    xor %rdi, %rax
    mov %rax, 4088(%rdi)
    add $4096, %rdi
    dec %ecx
    jnz 2b
    inc %r8
    mov %r8d, %eax
    out %eax, $0x10
    in $0x10, %eax
    cmp %r8d, %eax
    je 5f
    inc %r10
5:  cmp %r8, (%r9)
    je 6f
    inc %r10
6:  mov $16, %ecx
7:  cmp %r13, (%r13)
    je 8f
    inc %r10
8:  cmp %r13, 4088(%r13)
    je 9f
    inc %r10
9:  add $4096, %r13
    cmp %r14, %r13
    jb 10f
    mov %r12, %r13
10: dec %ecx
    jnz 7b
    mov %r10d, %eax
    out %eax, $0x14
    jmp 1b
tiny_guest_end:
  .popsection
)");
extern "C" const std::byte tiny_guest_begin[];
extern "C" const std::byte tiny_guest_end[];

namespace tiny {
namespace {

static_assert(kWorkingSetPages == 256 && kCounterPort == 0x10 && kErrorPort == 0x14,
              "the guest's program has these written out");

constexpr std::uint64_t kPresentWritableUser = 7;
constexpr std::uint64_t kLarge = 0x80;

std::uint64_t working_set(unsigned id) { return kWorkingSets + id * kWorkingSetPages * kPage; }

void put(std::span<std::byte> memory, std::uint64_t address, std::uint64_t value) {
  std::memcpy(&memory[address], &value, sizeof value);
}

std::uint64_t get(std::span<const std::byte> memory, std::uint64_t address) {
  std::uint64_t value = 0;
  std::memcpy(&value, &memory[address], sizeof value);
  return value;
}

kvm_segment segment(std::uint16_t selector, std::uint8_t type, bool code) {
  kvm_segment result{};
  result.limit = 0xffff'ffff;
  result.selector = selector;
  result.type = type;
  result.present = result.s = result.g = 1;
  result.dpl = 3;
  result.l = code;
  result.db = !code;
  return result;
}

void must(int result, const char* what) {
  if (result < 0) throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

void load_guest(std::span<std::byte> memory, unsigned vcpus) {
  std::memcpy(&memory[kProgram], tiny_guest_begin,
              static_cast<std::size_t>(tiny_guest_end - tiny_guest_begin));
  put(memory, kPageTables, (kPageTables + kPage) | kPresentWritableUser);
  put(memory, kPageTables + kPage, (kPageTables + 2 * kPage) | kPresentWritableUser);
  for (std::uint64_t i = 0; i < 512; ++i) {
    put(memory, kPageTables + 2 * kPage + i * 8, i << 21 | kLarge | kPresentWritableUser);
  }
  // Pass 0: the first word of a page is 0, as it is, the last one is 0 mixed with the address.
  for (std::uint64_t page = working_set(0); page < working_set(vcpus); page += kPage) {
    put(memory, page + kPage - 8, page);
  }
  for (std::uint64_t page = kStatic; page < memory.size(); page += kPage) {
    put(memory, page, page);
    put(memory, page + kPage - 8, page);
  }
}

void set_start_registers(int vcpu_fd, unsigned id, std::uint64_t memory_bytes) {
  kvm_sregs system{};
  must(ioctl(vcpu_fd, KVM_GET_SREGS, &system), "KVM_GET_SREGS");
  system.cs = segment(0x33, 11, true);
  system.ds = system.es = system.fs = system.gs = system.ss = segment(0x2b, 3, false);
  system.cr3 = kPageTables;
  system.cr4 = 0x620;        // PAE, OSFXSR, OSXMMEXCPT.
  system.cr0 = 0x8005'0033;  // PG, AM, WP, NE, ET, MP, PE.
  system.efer = 0xd01;       // NXE, LMA, LME, SCE.
  must(ioctl(vcpu_fd, KVM_SET_SREGS, &system), "KVM_SET_SREGS");
  kvm_regs general{};
  general.rip = kProgram;
  general.rflags = 0x3002;  // Ports are open to level 3.
  general.rbx = working_set(id);
  general.r9 = kMailboxes + id * kPage;
  general.r12 = general.r13 = kStatic;
  general.r14 = memory_bytes;
  must(ioctl(vcpu_fd, KVM_SET_REGS, &general), "KVM_SET_REGS");
  // All but the first would wait for a start-up interrupt.
  kvm_mp_state runnable{KVM_MP_STATE_RUNNABLE};
  must(ioctl(vcpu_fd, KVM_SET_MP_STATE, &runnable), "KVM_SET_MP_STATE");
}

std::uint64_t count_wrong_pages(std::span<const std::byte> memory) {
  std::uint64_t wrong = 0;
  for (std::uint64_t page = kStatic; page < memory.size(); page += kPage) {
    wrong += get(memory, page) != page || get(memory, page + kPage - 8) != page;
  }
  return wrong;
}

}  // namespace tiny
