#include "adapters/kvm/vmm/demo_image.hpp"

#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

#include "adapters/kvm/vmm/demo_fill.hpp"
#include "adapters/kvm/vmm/demo_guest/image.hpp"
#include "adapters/kvm/vmm/kvm_api.hpp"

namespace migrate::vmm {
namespace {

// Page table entry bits (Intel SDM vol. 3, 4.5). Accessed and dirty are set beforehand, so that
// the processor never writes to the tables.
constexpr std::uint64_t kPresent = 1u << 0;
constexpr std::uint64_t kWritable = 1u << 1;
constexpr std::uint64_t kUser = 1u << 2;
constexpr std::uint64_t kAccessed = 1u << 5;
constexpr std::uint64_t kUncached = 1u << 4;
constexpr std::uint64_t kDirty = 1u << 6;
constexpr std::uint64_t kLarge = 1u << 7;
constexpr std::uint64_t kTable = kPresent | kWritable | kUser | kAccessed;
constexpr std::uint64_t kLeaf = kTable | kDirty | kLarge;
constexpr std::uint64_t kDirectoryBytes = 1ull << 30;  ///< What one page directory maps.

static_assert(demo::kCardRegisters % demo::kLargePage == 0);
static_assert(demo::kCardsMax * demo::kCardRegisterBytes <= demo::kLargePage);

void map_identity(const GuestMemory& memory, std::uint64_t address, std::uint64_t leaf = kLeaf) {
  const std::uint64_t directory = address / kDirectoryBytes;
  const std::uint64_t directory_at = demo::kPageTables + (2 + directory) * demo::kPage;
  *memory.at<std::uint64_t>(demo::kPageTables + demo::kPage + directory * 8) =
      directory_at | kTable;
  *memory.at<std::uint64_t>(directory_at + address % kDirectoryBytes / demo::kLargePage * 8) =
      address | leaf;
}

void write_page_tables(const GuestMemory& memory, bool with_cards) {
  *memory.at<std::uint64_t>(demo::kPageTables) = (demo::kPageTables + demo::kPage) | kTable;
  const std::uint64_t pages = memory.bytes().size() / demo::kPage;
  for (std::uint64_t page = 0; page < pages; page += demo::kLargePage / demo::kPage) {
    map_identity(memory, demo::address_of_page(page));
  }
  if (with_cards) map_identity(memory, demo::kCardRegisters, kLeaf | kUncached);
}

kvm_segment segment(std::uint16_t selector, std::uint8_t type, bool code) {
  kvm_segment result{};
  result.limit = 0xffff'ffff;
  result.selector = selector;
  result.type = type;
  result.present = 1;
  result.dpl = 3;
  result.s = 1;
  result.l = code ? 1 : 0;
  result.db = code ? 0 : 1;
  result.g = 1;
  return result;
}

}  // namespace

Status load_demo_guest(const GuestMemory& memory, const demo::ControlBlock& plan,
                       const std::string& file) {
  const auto program = demo::image();
  MIGRATE_CHECK(program.size() <= demo::kProgramMax);
  std::memcpy(memory.bytes().data() + demo::kProgram, program.data(), program.size());
  write_page_tables(memory, plan.cards[0].present != 0);
  MIGRATE_TRY(fill_demo_memory(memory, plan, file));
  *memory.at<demo::ControlBlock>(demo::kControlBlock) = plan;
  return {};
}

Status set_demo_registers(int vcpu_fd, std::uint32_t id) {
  kvm_sregs sregs{};
  if (::ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot read a vCPU's system registers");
  }
  // Code and data of CPL 3; the selectors only have to be unlike and have RPL 3.
  sregs.cs = segment(0x33, 11, true);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(0x2b, 3, false);
  sregs.cr3 = demo::kPageTables;
  sregs.cr4 = 0x620;        // PAE, OSFXSR, OSXMMEXCPT: SSE is for its canary.
  sregs.cr0 = 0x8005'0033;  // PG, AM, WP, NE, ET, MP, PE.
  sregs.efer = 0xd01;       // NXE, LMA, LME, SCE.
  if (::ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) != 0) {
    return make_errno_error(ErrorCode::kUnsupported, errno,
                            "KVM does not take a vCPU in long mode at CPL 3");
  }
  kvm_regs regs{};
  regs.rip = demo::kProgram;
  regs.rflags = 0x3002;  // IOPL 3; interrupts off.
  regs.rdi = id;
  // As after a call: the return address that is not there takes 8 bytes of an aligned stack.
  regs.rsp = demo::kStacks + (id + 1) * demo::kStackBytes - 8;
  if (::ioctl(vcpu_fd, KVM_SET_REGS, &regs) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot set a vCPU's registers");
  }
  // With an in-kernel interrupt controller, all but the first wait for a start-up interrupt.
  kvm_mp_state state{};
  state.mp_state = KVM_MP_STATE_RUNNABLE;
  if (::ioctl(vcpu_fd, KVM_SET_MP_STATE, &state) != 0 && errno != EINVAL) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot make a vCPU runnable");
  }
  return {};
}

}  // namespace migrate::vmm
