#include "vmm.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <migrate/kvm.hpp>
#include <stdexcept>
#include <system_error>

#include "guest.hpp"

namespace tiny {
namespace {

constexpr int kKick = SIGUSR1;
// A vCPU makes one pass in this time or more, so that the guest leaves something of the host.
constexpr auto kTick = std::chrono::milliseconds(1);
constexpr unsigned long kTssAddress = 0xfffbd000;  // Any three pages where nothing else is.

int must(int result, const char* what) {
  if (result < 0) throw std::system_error(errno, std::generic_category(), what);
  return result;
}

void* mapped(std::size_t bytes, int fd, const char* what) {
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) throw std::system_error(errno, std::generic_category(), what);
  return at;
}

// A kick only has to interrupt KVM_RUN.
void ignore_kick(int) {}

void install_kick_handler() {
  struct sigaction action {};
  action.sa_handler = ignore_kick;
  sigaction(kKick, &action, nullptr);
}

void set_immediate_exit(kvm_run* run, std::uint8_t value) {
  std::atomic_ref<std::uint8_t>(run->immediate_exit).store(value);
}

// Not linux/kvm.h's kvm_cpuid2: in C++, its flexible array has a wrong size and place.
struct CpuidHead {
  std::uint32_t count, pad;
};
struct CpuidTable {
  CpuidHead head{256, 0};
  std::array<kvm_cpuid_entry2, 256> entries{};
};

void set_supported_cpuid(int kvm, int vcpu) {
  const auto table = std::make_unique<CpuidTable>();
  must(ioctl(kvm, _IOWR(KVMIO, 0x05, CpuidHead), table.get()), "KVM_GET_SUPPORTED_CPUID");
  must(ioctl(vcpu, _IOW(KVMIO, 0x90, CpuidHead), table.get()), "KVM_SET_CPUID2");
}

}  // namespace

Handle::~Handle() {
  if (fd_ >= 0) close(fd_);
}

Vmm::Vmm(const Shape& shape, Start start) : shape_(shape), counters_(shape.vcpus) {
  if (shape.vcpus < 1 || shape.vcpus > kVcpusMax || shape.memory_bytes < kMemoryMin ||
      shape.memory_bytes > kMemoryMax || shape.memory_bytes % kPage != 0) {
    throw std::invalid_argument("a guest has 1 to 4 vCPUs and 16 to 1024 MiB of memory");
  }
  install_kick_handler();
  kvm_ = Handle(must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm"));
  vm_ = Handle(must(ioctl(kvm_fd(), KVM_CREATE_VM, 0), "KVM_CREATE_VM"));
  must(ioctl(vm_fd(), KVM_SET_TSS_ADDR, kTssAddress), "KVM_SET_TSS_ADDR");
  must(ioctl(vm_fd(), KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
  add_memory();
  if (start == Start::kGuest) load_guest(memory_, shape_.vcpus);
  run_bytes_ = static_cast<std::size_t>(
      must(ioctl(kvm_fd(), KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE"));
  for (unsigned id = 0; id < shape_.vcpus; ++id) add_vcpu(id, start);
  for (auto& vcpu : vcpus_) {
    vcpu->thread = std::thread([this, &one = *vcpu] { run_vcpu(one); });
  }
}

Vmm::~Vmm() {
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
    for (auto& vcpu : vcpus_) {
      set_immediate_exit(vcpu->run, 1);
      pthread_kill(vcpu->thread.native_handle(), kKick);
    }
    changed_.notify_all();
  }
  for (auto& vcpu : vcpus_) {
    vcpu->thread.join();
    munmap(vcpu->run, run_bytes_);
  }
  munmap(memory_.data(), memory_.size());
}

void Vmm::add_memory() {
  memfd_ = Handle(must(memfd_create("tiny-vmm", MFD_CLOEXEC), "memfd_create"));
  must(ftruncate(memfd(), static_cast<off_t>(shape_.memory_bytes)), "ftruncate");
  memory_ = {static_cast<std::byte*>(mapped(shape_.memory_bytes, memfd(), "guest memory")),
             shape_.memory_bytes};
  kvm_userspace_memory_region region{};
  region.memory_size = memory_.size();
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(memory_.data());
  must(ioctl(vm_fd(), KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

void Vmm::add_vcpu(unsigned id, Start start) {
  auto vcpu = std::make_unique<Vcpu>();
  vcpu->id = id;
  vcpu->fd = Handle(must(ioctl(vm_fd(), KVM_CREATE_VCPU, id), "KVM_CREATE_VCPU"));
  vcpu->run = static_cast<kvm_run*>(mapped(run_bytes_, vcpu->fd.get(), "kvm_run"));
  if (start == Start::kGuest) {
    set_supported_cpuid(kvm_fd(), vcpu->fd.get());
    set_start_registers(vcpu->fd.get(), id, memory_.size());
  }
  vcpus_.push_back(std::move(vcpu));
}

void Vmm::resume() {
  const std::lock_guard lock(mutex_);
  paused_ = false;
  changed_.notify_all();
}

std::chrono::steady_clock::time_point Vmm::pause() {
  std::unique_lock lock(mutex_);
  paused_ = true;
  changed_.notify_all();
  for (auto& vcpu : vcpus_) {
    if (vcpu->parked) continue;
    // The flag for a thread that is about to enter the guest, the signal for one that is in.
    set_immediate_exit(vcpu->run, 1);
    pthread_kill(vcpu->thread.native_handle(), kKick);
  }
  changed_.wait(lock, [this] {
    return std::all_of(vcpus_.begin(), vcpus_.end(), [](auto& vcpu) { return vcpu->parked; });
  });
  return stopped_at_;
}

bool Vmm::paused() const {
  const std::lock_guard lock(mutex_);
  return paused_;
}

std::vector<Counter> Vmm::counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

void Vmm::set_counters(std::vector<Counter> counters) {
  const std::lock_guard lock(mutex_);
  counters_ = std::move(counters);
}

std::string Vmm::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void Vmm::run_vcpu(Vcpu& vcpu) {
  while (wait_for_leave(vcpu)) {
    if (ioctl(vcpu.fd.get(), KVM_RUN, 0) == 0) {
      handle_exit(vcpu);
    } else if (errno == EINTR || errno == EAGAIN) {
      vcpu.exit_pending = false;  // KVM completes what was pending before it looks at the flag.
    } else {
      set_failure(std::string("KVM_RUN: ") + std::strerror(errno));
    }
  }
}

/// Parks for as long as the guest is paused. False when the thread shall end.
bool Vmm::wait_for_leave(Vcpu& vcpu) {
  std::unique_lock lock(mutex_);
  while ((paused_ || !failure_.empty()) && !quit_) {
    lock.unlock();
    finish_access(vcpu);
    lock.lock();
    vcpu.parked = true;
    stopped_at_ = std::chrono::steady_clock::now();
    changed_.notify_all();
    changed_.wait(lock, [this] { return (!paused_ && failure_.empty()) || quit_; });
  }
  vcpu.parked = false;
  set_immediate_exit(vcpu.run, 0);
  return !quit_;
}

/// Half an instruction must not stay inside KVM: at another host it would be lost, or made twice.
void Vmm::finish_access(Vcpu& vcpu) {
  while (std::exchange(vcpu.exit_pending, false)) {
    const auto done = migrate::complete_pending_exit(vcpu.fd.get(), vcpu.run);
    if (!done) return set_failure(done.error().to_text());
    if (!*done) handle_exit(vcpu);
  }
}

void Vmm::handle_exit(Vcpu& vcpu) {
  if (vcpu.run->exit_reason == KVM_EXIT_INTR) return;
  const auto& io = vcpu.run->io;
  if (vcpu.run->exit_reason != KVM_EXIT_IO || io.size != 4 || io.count != 1) {
    return set_failure("the guest left for reason " + std::to_string(vcpu.run->exit_reason));
  }
  auto* const data = reinterpret_cast<std::byte*>(vcpu.run) + io.data_offset;
  std::uint32_t value = 0;
  std::memcpy(&value, data, sizeof value);
  access_port(vcpu.id, io.port, io.direction == KVM_EXIT_IO_OUT, value);
  std::memcpy(data, &value, sizeof value);
  vcpu.exit_pending = true;
}

void Vmm::access_port(unsigned id, std::uint16_t port, bool out, std::uint32_t& value) {
  if (port == kCounterPort && out) return count_pass(id);
  const std::lock_guard lock(mutex_);
  if (port == kCounterPort) {
    value = static_cast<std::uint32_t>(counters_[id].passes);
  } else if (port == kErrorPort && out) {
    counters_[id].errors = value;
  } else {
    value = 0xffff'ffff;
  }
}

/// The device writes to guest memory by itself, as one with queues does: no log of KVM's sees that.
void Vmm::count_pass(unsigned id) {
  std::unique_lock lock(mutex_);
  const std::uint64_t passes = ++counters_[id].passes;
  const std::uint64_t mailbox = kMailboxes + id * kPage;
  std::memcpy(&memory_[mailbox], &passes, sizeof passes);
  if (on_device_write) on_device_write(mailbox, sizeof passes);
  changed_.wait_for(lock, kTick, [this] { return paused_ || quit_; });
}

void Vmm::set_failure(const std::string& what) {
  const std::lock_guard lock(mutex_);
  if (failure_.empty()) failure_ = what;
  changed_.notify_all();
}

}  // namespace tiny
