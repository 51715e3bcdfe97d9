#include "tests/kvm/tiny_guest.hpp"

#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

namespace migrate::testing {
namespace {

constexpr std::uint64_t kCodeAddress = 0x1000;
constexpr std::uint64_t kStackTop = 0x8000;
constexpr std::uint64_t kPageTables = 0x10000;  ///< Three pages: 512 x 2 MiB, one to one.
constexpr int kKick = SIGUSR1;
constexpr auto kPatience = std::chrono::seconds(30);

// The sweep: rbx is the first address, rcx the number of pages, r9 the distance between them.
constexpr std::array<std::uint8_t, 54> kProgram = {
    0x48, 0x89, 0xdf,              //  0 start: mov rdi, rbx
    0x48, 0x89, 0xce,              //  3        mov rsi, rcx
    0x48, 0xff, 0x07,              //  6 next:  inc qword [rdi]
    0x4c, 0x01, 0xcf,              //  9        add rdi, r9
    0x48, 0xff, 0xce,              //  c        dec rsi
    0x75, 0xf5,                    //  f        jnz next
    0x49, 0xff, 0xc0,              // 11        inc r8
    0x66, 0x49, 0x0f, 0x6e, 0xc0,  // 14        movq xmm0, r8
    0x66, 0x4d, 0x0f, 0x6e, 0xf8,  // 19        movq xmm15, r8
    0x0f, 0x31,                    // 1e        rdtsc
    0x48, 0xc1, 0xe2, 0x20,        // 20        shl rdx, 32
    0x48, 0x09, 0xd0,              // 24        or rax, rdx
    0x4c, 0x39, 0xd0,              // 27        cmp rax, r10
    0x73, 0x03,                    // 2a        jae forward
    0x49, 0xff, 0xc3,              // 2c        inc r11
    0x49, 0x89, 0xc2,              // 2f forward: mov r10, rax
    0xe6, 0x10,                    // 32        out 0x10, al
    0xeb, 0xca,                    // 34        jmp start
};

int must(int result, const char* what) {
  if (result < 0) throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
  return result;
}

void ignore_kick(int) {}

void install_kick_handler() {
  struct sigaction action {};
  action.sa_handler = ignore_kick;
  sigaction(kKick, &action, nullptr);
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

void set_supported_cpuid(int kvm, int vcpu) {
  const auto table = std::make_unique<CpuidTable>();
  must(::ioctl(kvm, _IOWR(KVMIO, 0x05, CpuidHead), table.get()), "KVM_GET_SUPPORTED_CPUID");
  must(::ioctl(vcpu, _IOW(KVMIO, 0x90, CpuidHead), table.get()), "KVM_SET_CPUID2");
}

}  // namespace

bool kvm_usable(std::string& reason) {
  const Fd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (kvm) return true;
  reason = std::string("/dev/kvm does not open: ") + std::strerror(errno);
  return false;
}

TinyGuest::TinyGuest(TinyGuestOptions options) : options_(std::move(options)) {
  install_kick_handler();
  kvm_ = Fd(must(::open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm"));
  vm_ = Fd(must(::ioctl(kvm_.get(), KVM_CREATE_VM, 0), "KVM_CREATE_VM"));
  if (options_.ring_entries != 0) {
    auto ring = KvmDirtyRing::enable(vm_.get(), options_.ring_entries);
    if (!ring) throw std::runtime_error(ring.error().to_text());
    ring_ = *std::move(ring);
  }
  must(::ioctl(vm_.get(), KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");
  if (options_.irqchip) must(::ioctl(vm_.get(), KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
  if (options_.pit) {
    kvm_pit_config pit{};
    must(::ioctl(vm_.get(), KVM_CREATE_PIT2, &pit), "KVM_CREATE_PIT2");
  }
  run_bytes_ = static_cast<std::size_t>(
      must(::ioctl(kvm_.get(), KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE"));
  std::uint64_t address = 0;
  for (std::uint32_t i = 0; i < options_.slot_pages.size(); ++i) {
    add_slot(i, options_.slot_pages[i], address);
    address += options_.slot_pages[i] * kPageSize;
  }
  if (options_.programmed) load_program();
  for (std::uint32_t i = 0; i < options_.vcpus; ++i) add_vcpu(i);
}

TinyGuest::~TinyGuest() {
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
    for (auto& vcpu : vcpus_) vcpu->run->immediate_exit = 1;
  }
  changed_.notify_all();
  for (auto& vcpu : vcpus_) {
    if (vcpu->thread.joinable()) {
      ::pthread_kill(vcpu->thread.native_handle(), kKick);
      vcpu->thread.join();
    }
    ::munmap(vcpu->run, run_bytes_);
  }
  for (const KvmMemorySlot& slot : slots_) ::munmap(slot.host, slot.bytes);
}

void TinyGuest::add_slot(std::uint32_t number, std::uint64_t pages, std::uint64_t address) {
  const std::size_t bytes = pages * kPageSize;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  int fd = -1;
  if (!options_.anonymous) {
    memfds_.emplace_back(must(::memfd_create("tiny-guest", MFD_CLOEXEC), "memfd_create"));
    fd = memfds_.back().get();
    must(::ftruncate(fd, static_cast<off_t>(bytes)), "ftruncate");
    flags = MAP_SHARED | MAP_NORESERVE;
  }
  void* host = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (host == MAP_FAILED) throw std::runtime_error("mmap of guest memory");
  KvmMemorySlot slot;
  slot.slot = number;
  slot.guest_address = {address};
  slot.bytes = bytes;
  slot.host = static_cast<std::byte*>(host);
  slot.backing = options_.anonymous ? Backing::kAnonymous : Backing::kMemfd;
  slot.memfd = fd;
  slots_.push_back(slot);
  kvm_userspace_memory_region region{};
  region.slot = number;
  region.guest_phys_addr = address;
  region.memory_size = bytes;
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(host);
  must(::ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

void TinyGuest::load_program() {
  std::byte* low = slots_.front().host;
  std::memcpy(low + kCodeAddress, kProgram.data(), kProgram.size());
  auto* tables = reinterpret_cast<std::uint64_t*>(low + kPageTables);
  constexpr std::uint64_t kPresentWriteUser = 7;
  constexpr std::uint64_t kLargePage = 0x80;
  tables[0] = (kPageTables + kPageSize) | kPresentWriteUser;
  tables[512] = (kPageTables + 2 * kPageSize) | kPresentWriteUser;
  for (std::uint64_t i = 0; i < 512; ++i)
    tables[1024 + i] = i << 21 | kLargePage | kPresentWriteUser;
}

void TinyGuest::add_vcpu(std::uint32_t id) {
  auto vcpu = std::make_unique<Vcpu>();
  vcpu->id = id;
  vcpu->fd = Fd(must(::ioctl(vm_.get(), KVM_CREATE_VCPU, id), "KVM_CREATE_VCPU"));
  if (ring_ != nullptr) {
    if (const Status added = ring_->add_vcpu(vcpu->fd.get()); !added) {
      throw std::runtime_error(added.error().to_text());
    }
  }
  void* run = ::mmap(nullptr, run_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd.get(), 0);
  if (run == MAP_FAILED) throw std::runtime_error("mmap of kvm_run");
  vcpu->run = static_cast<kvm_run*>(run);
  if (options_.programmed) {
    set_supported_cpuid(kvm_.get(), vcpu->fd.get());
    const std::uint64_t share = options_.sweep_pages / options_.vcpus;
    set_registers(*vcpu, options_.sweep_first + id * share, share);
  }
  vcpus_.push_back(std::move(vcpu));
}

void TinyGuest::set_registers(Vcpu& vcpu, std::uint64_t first_page, std::uint64_t count) {
  kvm_mp_state runnable{};
  runnable.mp_state = KVM_MP_STATE_RUNNABLE;
  must(::ioctl(vcpu.fd.get(), KVM_SET_MP_STATE, &runnable), "KVM_SET_MP_STATE");
  kvm_sregs system{};
  must(::ioctl(vcpu.fd.get(), KVM_GET_SREGS, &system), "KVM_GET_SREGS");
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
  system.cr4 = 0x620;       // PAE, OSFXSR, OSXMMEXCPT.
  system.cr0 = 0x80050033;  // PG, AM, WP, NE, ET, MP, PE.
  system.efer = 0xd01;      // NXE, LMA, LME, SCE.
  must(::ioctl(vcpu.fd.get(), KVM_SET_SREGS, &system), "KVM_SET_SREGS");
  kvm_regs general{};
  general.rip = kCodeAddress;
  general.rsp = kStackTop;
  general.rflags = 0x3002;  // IOPL 3: ports are open to ring 3.
  general.rbx = first_page * kPageSize;
  general.rcx = count;
  general.r9 = kPageSize;
  must(::ioctl(vcpu.fd.get(), KVM_SET_REGS, &general), "KVM_SET_REGS");
}

KvmVm TinyGuest::vm() const {
  KvmVm vm;
  vm.kvm_fd = kvm_.get();
  vm.vm_fd = vm_.get();
  for (const auto& vcpu : vcpus_) vm.vcpu_fds.push_back(vcpu->fd.get());
  vm.slots = slots_;
  vm.irqchip = options_.irqchip;
  vm.pit = options_.pit;
  vm.dirty_ring = ring_;
  return vm;
}

std::vector<Region> TinyGuest::regions() const {
  std::vector<Region> regions;
  for (const KvmMemorySlot& slot : slots_) regions.push_back(region_of(slot));
  return regions;
}

std::byte* TinyGuest::page(std::uint64_t number) const {
  for (const KvmMemorySlot& slot : slots_) {
    const PageRange range = region_of(slot).range;
    if (range.contains(GuestPage{number})) {
      return slot.host + (number - range.first.number) * kPageSize;
    }
  }
  throw std::out_of_range("no such guest page");
}

std::uint64_t TinyGuest::word(std::uint64_t page_number) const {
  auto* word = reinterpret_cast<std::uint64_t*>(page(page_number));
  return std::atomic_ref<std::uint64_t>(*word).load(std::memory_order_relaxed);
}

std::uint64_t TinyGuest::pages() const {
  std::uint64_t count = 0;
  for (const KvmMemorySlot& slot : slots_) count += slot.bytes / kPageSize;
  return count;
}

void TinyGuest::resume() {
  const std::lock_guard lock(mutex_);
  paused_ = false;
  for (auto& vcpu : vcpus_) {
    vcpu->parked = false;
    if (!vcpu->thread.joinable()) {
      vcpu->thread = std::thread([this, raw = vcpu.get()] { run_vcpu(*raw); });
    }
  }
  changed_.notify_all();
}

void TinyGuest::pause() {
  std::unique_lock lock(mutex_);
  paused_ = true;
  for (auto& vcpu : vcpus_) {
    std::atomic_ref<std::uint8_t>(vcpu->run->immediate_exit).store(1);
    if (vcpu->thread.joinable()) ::pthread_kill(vcpu->thread.native_handle(), kKick);
  }
  changed_.notify_all();
  const bool stands = changed_.wait_for(lock, kPatience, [&] {
    for (auto& vcpu : vcpus_) {
      if (!vcpu->parked && vcpu->failure.empty()) return false;
    }
    return true;
  });
  check_failures();
  if (!stands) throw std::runtime_error("a vCPU did not park");
}

void TinyGuest::sweep(std::uint64_t count) {
  std::vector<std::uint64_t> goals;
  std::unique_lock lock(mutex_);
  for (auto& vcpu : vcpus_) {
    vcpu->allowed += count;
    goals.push_back(vcpu->sweeps + count);
  }
  lock.unlock();
  resume();
  lock.lock();
  const bool done = changed_.wait_for(lock, kPatience, [&] {
    for (std::size_t i = 0; i < vcpus_.size(); ++i) {
      if (vcpus_[i]->sweeps < goals[i] && vcpus_[i]->failure.empty()) return false;
    }
    return true;
  });
  check_failures();
  if (!done) throw std::runtime_error("the guest does not sweep");
}

void TinyGuest::wait_for_sweeps(std::uint64_t count) {
  std::unique_lock lock(mutex_);
  std::vector<std::uint64_t> goals;
  for (auto& vcpu : vcpus_) goals.push_back(vcpu->sweeps + count);
  const bool done = changed_.wait_for(lock, kPatience, [&] {
    for (std::size_t i = 0; i < vcpus_.size(); ++i) {
      if (vcpus_[i]->sweeps < goals[i] && vcpus_[i]->failure.empty()) return false;
    }
    return true;
  });
  check_failures();
  if (!done) throw std::runtime_error("the guest does not sweep");
}

std::uint64_t TinyGuest::sweeps(std::uint32_t vcpu) const {
  const std::lock_guard lock(mutex_);
  return vcpus_[vcpu]->sweeps;
}

bool TinyGuest::may_run(const Vcpu& vcpu) const {
  return !paused_ && (!options_.gated || vcpu.sweeps < vcpu.allowed);
}

void TinyGuest::check_failures() {
  for (const auto& vcpu : vcpus_) {
    if (!vcpu->failure.empty()) throw std::runtime_error(vcpu->failure);
  }
}

void TinyGuest::run_vcpu(Vcpu& vcpu) {
  std::unique_lock lock(mutex_);
  while (!quit_ && vcpu.failure.empty()) {
    if (!may_run(vcpu)) {
      vcpu.parked = paused_;
      changed_.notify_all();
      changed_.wait(lock);
      continue;
    }
    vcpu.parked = false;
    vcpu.run->immediate_exit = 0;
    lock.unlock();
    const int error = ::ioctl(vcpu.fd.get(), KVM_RUN, 0) < 0 ? errno : 0;
    // Without the lock, as vCPUs of a real VMM do it: beside each other and beside the tracker.
    const Status emptied = handle_full_ring(vcpu, error);
    lock.lock();
    if (!emptied) {
      vcpu.failure = emptied.error().to_text();
      changed_.notify_all();
    } else {
      handle_exit(vcpu, error);
    }
  }
}

Status TinyGuest::handle_full_ring(Vcpu& vcpu, int error) {
  if (error != 0 || vcpu.run->exit_reason != KVM_EXIT_DIRTY_RING_FULL) return {};
  if (ring_ == nullptr) return make_error(ErrorCode::kInternal, "there is no ring to be full");
  return ring_->on_ring_full(vcpu.id);
}

void TinyGuest::handle_exit(Vcpu& vcpu, int error) {
  if (error == EINTR || error == EAGAIN) return;
  if (error != 0) {
    vcpu.failure = std::string("KVM_RUN: ") + std::strerror(error);
    return;
  }
  if (vcpu.run->exit_reason == KVM_EXIT_DIRTY_RING_FULL) return;
  if (vcpu.run->exit_reason != KVM_EXIT_IO) {
    vcpu.failure = "the guest left with exit " + std::to_string(vcpu.run->exit_reason);
    return;
  }
  const Result<bool> completed = complete_pending_exit(vcpu.fd.get(), vcpu.run);
  if (!completed) {
    vcpu.failure = completed.error().to_text();
    return;
  }
  ++vcpu.sweeps;
  changed_.notify_all();
}

TinyGuest::Registers TinyGuest::registers(std::uint32_t vcpu) const {
  kvm_regs general{};
  must(::ioctl(vcpus_[vcpu]->fd.get(), KVM_GET_REGS, &general), "KVM_GET_REGS");
  kvm_fpu fpu{};
  must(::ioctl(vcpus_[vcpu]->fd.get(), KVM_GET_FPU, &fpu), "KVM_GET_FPU");
  Registers registers{general.rip, general.r8, general.r10, general.r11, general.rax, 0, 0};
  std::memcpy(&registers.xmm0, fpu.xmm[0], sizeof registers.xmm0);
  std::memcpy(&registers.xmm15, fpu.xmm[15], sizeof registers.xmm15);
  return registers;
}

}  // namespace migrate::testing
