#include "bench/tracked_guest.hpp"

#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>

namespace migrate::bench {
namespace {

constexpr std::uint64_t kWriteProgram = 0x1000;
constexpr std::uint64_t kSpinProgram = 0x2000;
constexpr std::uint64_t kStackTop = 0x8000;
constexpr std::uint64_t kPageTables = 0x10000;
constexpr std::uint64_t kTableGiB = 64;  ///< Mapped one to one, by pages of 2 MiB.
// Memory goes around the hole below 4 GiB, as a machine's does: KVM itself puts pages there.
constexpr std::uint64_t kHoleBegin = std::uint64_t{3} << 30;
constexpr std::uint64_t kHoleEnd = std::uint64_t{4} << 30;
constexpr int kKick = SIGUSR1;

// rdi is the first address, rsi the number of pages, r9 the bytes between two.
constexpr std::array<std::uint8_t, 15> kWrite = {
    0x48, 0xff, 0x07,  //  0 next: inc qword [rdi]
    0x4c, 0x01, 0xcf,  //  3       add rdi, r9
    0x48, 0xff, 0xce,  //  6       dec rsi
    0x75, 0xf5,        //  9       jnz next
    0xe6, 0x10,        //  b       out 0x10, al
    0xeb, 0xf1,        //  d       jmp next
};

// rbx, rcx and r9 as above; r11 becomes the most ticks from one write to the next.
constexpr std::array<std::uint8_t, 60> kSpin = {
    0x0f, 0x31,              //  0        rdtsc
    0x48, 0xc1, 0xe2, 0x20,  //  2        shl rdx, 32
    0x48, 0x09, 0xd0,        //  6        or rax, rdx
    0x49, 0x89, 0xc2,        //  9        mov r10, rax
    0x4d, 0x31, 0xdb,        //  c        xor r11, r11
    0x48, 0x89, 0xdf,        //  f start: mov rdi, rbx
    0x48, 0x89, 0xce,        // 12        mov rsi, rcx
    0x48, 0xff, 0x07,        // 15 next:  inc qword [rdi]
    0x4c, 0x01, 0xcf,        // 18        add rdi, r9
    0x0f, 0x31,              // 1b        rdtsc
    0x48, 0xc1, 0xe2, 0x20,  // 1d        shl rdx, 32
    0x48, 0x09, 0xd0,        // 21        or rax, rdx
    0x49, 0x89, 0xc0,        // 24        mov r8, rax
    0x4d, 0x29, 0xd0,        // 27        sub r8, r10
    0x4d, 0x39, 0xd8,        // 2a        cmp r8, r11
    0x76, 0x03,              // 2d        jbe shorter
    0x4d, 0x89, 0xc3,        // 2f        mov r11, r8
    0x49, 0x89, 0xc2,        // 32 shorter: mov r10, rax
    0x48, 0xff, 0xce,        // 35        dec rsi
    0x75, 0xdb,              // 38        jnz next
    0xeb, 0xd3,              // 3a        jmp start
};

int must_call(int result, const char* what) {
  if (result < 0) give_up(std::string(what) + ": " + std::strerror(errno));
  return result;
}

// Not linux/kvm.h's kvm_cpuid2, whose flexible array has its size and place wrong in C++.
struct CpuidTable {
  std::uint32_t count = 256;
  std::uint32_t pad = 0;
  std::array<kvm_cpuid_entry2, 256> entries{};
};
struct CpuidHead {
  std::uint32_t count, pad;
};

void ignore_kick(int) {}

}  // namespace

bool TrackedGuest::has_rings() {
  const Fd kvm(open_kvm());
  const Fd vm(::ioctl(kvm.get(), KVM_CREATE_VM, 0));
  return KvmDirtyRing::entries_max(vm.get()) >= KvmDirtyRing::kEntriesDefault;
}

int TrackedGuest::open_kvm() { return ::open("/dev/kvm", O_RDWR | O_CLOEXEC); }

TrackedGuest::TrackedGuest(const TrackedMemory& memory, GuestRing ring) : memory_(memory) {
  struct sigaction action {};
  action.sa_handler = ignore_kick;
  ::sigaction(kKick, &action, nullptr);
  kvm_ = Fd(must_call(open_kvm(), "/dev/kvm"));
  vm_ = Fd(must_call(::ioctl(kvm_.get(), KVM_CREATE_VM, 0), "KVM_CREATE_VM"));
  if (ring == GuestRing::kLibrary) ring_ = must(KvmDirtyRing::enable(vm_.get()));
  if (ring == GuestRing::kBare) enable_bare_ring(vm_.get());
  must_call(::ioctl(vm_.get(), KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");
  run_bytes_ = static_cast<std::size_t>(
      must_call(::ioctl(kvm_.get(), KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE"));
  const std::uint64_t bytes = memory.pages() * kPageSize;
  const std::uint64_t below = std::min(bytes, kHoleBegin);
  add_slot(0, below, 0);
  if (bytes > below) add_slot(below, bytes - below, kHoleEnd);
  load_programs();
  for (std::uint32_t id = 0; id < kVcpus; ++id) add_vcpu(id);
}

TrackedGuest::~TrackedGuest() {
  (void)stop_spinning();
  for (Vcpu& vcpu : vcpus_) ::munmap(vcpu.run, run_bytes_);
}

void TrackedGuest::add_slot(std::uint64_t first_byte, std::uint64_t bytes,
                            std::uint64_t guest_address) {
  KvmMemorySlot slot;
  slot.slot = static_cast<std::uint32_t>(slots_.size());
  slot.guest_address = {guest_address};
  slot.bytes = bytes;
  slot.host = memory_.page(first_byte / kPageSize);
  slot.backing = memory_.backing();
  slot.memfd = memory_.memfd();
  slot.memfd_offset = first_byte;
  slots_.push_back(slot);
  kvm_userspace_memory_region region{};
  region.slot = slot.slot;
  region.guest_phys_addr = guest_address;
  region.memory_size = bytes;
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(slot.host);
  must_call(::ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

void TrackedGuest::load_programs() {
  std::memcpy(memory_.page(0) + kWriteProgram, kWrite.data(), kWrite.size());
  std::memcpy(memory_.page(0) + kSpinProgram, kSpin.data(), kSpin.size());
  auto* tables = reinterpret_cast<std::uint64_t*>(memory_.page(0) + kPageTables);
  // Accessed and dirty already, so that the processor does not write to the tables.
  constexpr std::uint64_t kFlags = 0x67;
  constexpr std::uint64_t kLargePage = 0x80;
  std::memset(tables, 0, 2 * kPageSize);
  tables[0] = (kPageTables + kPageSize) | kFlags;
  for (std::uint64_t i = 0; i < kTableGiB; ++i) {
    tables[512 + i] = (kPageTables + (2 + i) * kPageSize) | kFlags;
  }
  for (std::uint64_t i = 0; i < 512 * kTableGiB; ++i)
    tables[1024 + i] = i << 21 | kLargePage | kFlags;
}

void TrackedGuest::add_vcpu(std::uint32_t id) {
  Vcpu vcpu;
  vcpu.fd = Fd(must_call(::ioctl(vm_.get(), KVM_CREATE_VCPU, id), "KVM_CREATE_VCPU"));
  if (ring_ != nullptr) must(ring_->add_vcpu(vcpu.fd.get()));
  void* run = ::mmap(nullptr, run_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.fd.get(), 0);
  if (run == MAP_FAILED) give_up("mmap of kvm_run");
  vcpu.run = static_cast<kvm_run*>(run);
  const auto cpuid = std::make_unique<CpuidTable>();
  must_call(::ioctl(kvm_.get(), _IOWR(KVMIO, 0x05, CpuidHead), cpuid.get()),
            "KVM_GET_SUPPORTED_CPUID");
  must_call(::ioctl(vcpu.fd.get(), _IOW(KVMIO, 0x90, CpuidHead), cpuid.get()), "KVM_SET_CPUID2");
  set_mode(vcpu);
  vcpus_.push_back(std::move(vcpu));
}

// Ring 3 in 64-bit mode, ports open, no interrupts.
void TrackedGuest::set_mode(const Vcpu& vcpu) {
  kvm_mp_state runnable{};
  runnable.mp_state = KVM_MP_STATE_RUNNABLE;
  (void)::ioctl(vcpu.fd.get(), KVM_SET_MP_STATE, &runnable);  // Needs an irqchip on some kernels.
  kvm_sregs system{};
  must_call(::ioctl(vcpu.fd.get(), KVM_GET_SREGS, &system), "KVM_GET_SREGS");
  kvm_segment code{};
  code.limit = 0xffffffff;
  code.selector = 0x33;
  code.type = 11;  // Execute, read, accessed.
  code.present = code.s = code.l = code.g = 1;
  code.dpl = 3;
  kvm_segment data = code;
  data.selector = 0x2b;
  data.type = 3;  // Read, write, accessed.
  data.l = 0;
  data.db = 1;
  system.cs = code;
  system.ds = system.es = system.fs = system.gs = system.ss = data;
  system.cr3 = kPageTables;
  system.cr4 = 0x20;        // PAE.
  system.cr0 = 0x80050033;  // PG, AM, WP, NE, ET, MP, PE.
  system.efer = 0xd01;      // NXE, LMA, LME, SCE.
  must_call(::ioctl(vcpu.fd.get(), KVM_SET_SREGS, &system), "KVM_SET_SREGS");
}

void TrackedGuest::set_registers(const Vcpu& vcpu, std::uint64_t program, PageRange pages,
                                 std::uint64_t step) {
  kvm_regs general{};
  general.rip = program;
  general.rsp = kStackTop;
  general.rflags = 0x3002;  // IOPL 3: ports are open to ring 3.
  general.rbx = general.rdi = pages.first.number * kPageSize;
  general.rcx = general.rsi = (pages.count + step - 1) / step;
  general.r9 = step * kPageSize;
  must_call(::ioctl(vcpu.fd.get(), KVM_SET_REGS, &general), "KVM_SET_REGS");
}

bool TrackedGuest::run(std::uint32_t id) {
  const Vcpu& vcpu = vcpus_[id];
  for (;;) {
    if (::ioctl(vcpu.fd.get(), KVM_RUN, 0) < 0) {
      if (errno == EINTR || errno == EAGAIN) return false;
      give_up(std::string("KVM_RUN: ") + std::strerror(errno));
    }
    if (vcpu.run->exit_reason == KVM_EXIT_IO) return true;
    if (vcpu.run->exit_reason != KVM_EXIT_DIRTY_RING_FULL) {
      give_up("the guest left with exit " + std::to_string(vcpu.run->exit_reason));
    }
    if (ring_ != nullptr) {
      must(ring_->on_ring_full(id));
    } else {
      on_ring_full_(id);
    }
  }
}

std::uint64_t TrackedGuest::write(std::uint64_t step) {
  std::uint64_t written = 0;
  for (const KvmMemorySlot& slot : slots_) {
    PageRange pages = region_of(slot).range;
    const std::uint64_t skip = slot.guest_address.value == 0 ? kFirstPage : 0;
    pages = {pages.first + skip, pages.count - skip};
    set_registers(vcpus_[0], kWriteProgram, pages, step);
    while (!run(0)) {
    }
    written += (pages.count + step - 1) / step;
  }
  return written;
}

void TrackedGuest::spin() {
  const PageRange low = region_of(slots_.front()).range;
  set_registers(vcpus_[1], kSpinProgram, {low.first + kFirstPage, low.count - kFirstPage}, 1);
  std::atomic_ref<std::uint8_t>(vcpus_[1].run->immediate_exit).store(0);
  stop_spinning_ = false;
  spinning_ = false;
  spinner_ = std::thread([this] {
    run_first();
    spinning_ = true;
    while (!stop_spinning_.load()) run(1);
  });
  while (!spinning_.load()) std::this_thread::yield();
}

double TrackedGuest::stop_spinning() {
  if (!spinner_.joinable()) return 0;
  stop_spinning_ = true;
  std::atomic_ref<std::uint8_t>(vcpus_[1].run->immediate_exit).store(1);
  ::pthread_kill(spinner_.native_handle(), kKick);
  spinner_.join();
  kvm_regs general{};
  must_call(::ioctl(vcpus_[1].fd.get(), KVM_GET_REGS, &general), "KVM_GET_REGS");
  return static_cast<double>(general.r11) / ticks_per_ms();
}

}  // namespace migrate::bench
