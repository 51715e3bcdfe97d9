// A guest whose memory follows after its start: what it touches first is named, and one that waits
// for a page can be paused, resumed and stopped.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <thread>
#include <vector>

#include "adapters/kvm/vmm/demo_guest/image.hpp"
#include "adapters/kvm/vmm/kvm_api.hpp"
#include "adapters/kvm/vmm/migration_hooks.hpp"
#include "base/fd.hpp"
#include "tests/vmm/vmm_fixture.hpp"

namespace migrate::vmm {
namespace {

using ::testing::Contains;

/// The data pages of a paused guest's memory, taken away and given back one by one.
class TakenPages {
 public:
  /// Throws std::runtime_error where this host has no userfaultfd.
  explicit TakenPages(const Vmm& vmm)
      : slot_(vmm.kvm_vm().slots[0]),
        uffd_(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))) {
    if (!uffd_) throw std::runtime_error("no userfaultfd");
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = UFFD_FEATURE_THREAD_ID;
    if (::ioctl(uffd_.get(), UFFDIO_API, &api) != 0) throw std::runtime_error("UFFDIO_API");
    kept_.assign(data(), data() + data_bytes());
    uffdio_register registration{};
    registration.range = {address(), data_bytes()};
    registration.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (::ioctl(uffd_.get(), UFFDIO_REGISTER, &registration) != 0 ||
        ::madvise(data(), data_bytes(), MADV_DONTNEED) != 0) {
      throw std::runtime_error("guest memory cannot be taken away");
    }
  }
  /// Whoever still waits goes on.
  ~TakenPages() {
    ended_ = true;
    if (server_.joinable()) server_.join();
    uffdio_range range{address(), data_bytes()};
    ::ioctl(uffd_.get(), UFFDIO_UNREGISTER, &range);
  }
  TakenPages(const TakenPages&) = delete;
  TakenPages& operator=(const TakenPages&) = delete;

  /// Waits for the next fault; the thread that waits for its page.
  [[nodiscard]] int wait_for_fault() {
    uffd_msg message{};
    while (wait_readable(60'000)) {
      if (next(message)) return static_cast<int>(message.arg.pagefault.feat.ptid);
    }
    return -1;
  }
  /// All that is asked for from now on, and what was asked for before.
  void serve() {
    server_ = std::thread([this] {
      for (std::uint64_t at = 0; at < data_bytes() && !ended_; at += kPageSize) give(at);
      while (!ended_) {
        uffd_msg message{};
        if (!wait_readable(20) || !next(message)) continue;
        give(message.arg.pagefault.address / kPageSize * kPageSize - address());
      }
    });
  }

 private:
  [[nodiscard]] std::byte* data() const { return slot_.host + demo::kTables; }
  [[nodiscard]] std::uint64_t data_bytes() const { return slot_.bytes - demo::kTables; }
  [[nodiscard]] std::uint64_t address() const { return reinterpret_cast<std::uintptr_t>(data()); }
  [[nodiscard]] bool wait_readable(int timeout_ms) const {
    pollfd readable{uffd_.get(), POLLIN, 0};
    return ::poll(&readable, 1, timeout_ms) == 1;
  }
  /// False when who waited was interrupted meanwhile.
  bool next(uffd_msg& message) const {
    return ::read(uffd_.get(), &message, sizeof message) == sizeof message;
  }
  /// There already: EEXIST.
  void give(std::uint64_t at) {
    uffdio_copy copy{};
    copy.dst = address() + at;
    copy.src = reinterpret_cast<std::uintptr_t>(kept_.data() + at);
    copy.len = kPageSize;
    ::ioctl(uffd_.get(), UFFDIO_COPY, &copy);
  }

  const KvmMemorySlot slot_;
  const Fd uffd_;
  std::vector<std::byte> kept_;
  std::atomic<bool> ended_{false};
  std::thread server_;
};

class LazyMemory : public VmmTest {
 protected:
  void SetUp() override {
    VmmTest::SetUp();
    if (!Fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC)))) {
      GTEST_SKIP() << "no userfaultfd for accesses of KVM here: " << std::strerror(errno);
    }
  }
  static constexpr const char* kWorkload = "writer:rate=20M,set=1M+verifier:rate=20M";
  /// Two vCPUs that have worked; paused.
  static std::shared_ptr<Vmm> make_used() {
    std::shared_ptr<Vmm> vmm = make(kWorkload, 16 << 20, 2);
    resume(*vmm);
    wait_for(*vmm, [](const GuestStats& now) { return now.pages_written > 300; });
    pause(*vmm);
    return vmm;
  }
};

TEST_F(LazyMemory, AGuestThatWaitsForAPageIsPausedAndGoesOnOnceItIsThere) {
  const auto vmm = make_used();
  TakenPages taken(*vmm);
  const std::vector<int> threads = vmm->vcpu_threads();
  for (int round = 0; round < 3; ++round) {
    resume(*vmm);
    // A vCPU in KVM_RUN; on later rounds it faults again, since nobody gave it the page.
    EXPECT_THAT(threads, Contains(taken.wait_for_fault()));
    EXPECT_EQ(vmm->state(), VmmState::kRunning);
    const auto paused = vmm->pause();
    ASSERT_TRUE(paused) << paused.error().to_text();
    EXPECT_EQ(paused->before, RunState::kRunning);
  }
  const GuestStats before = stats_of(*vmm);
  resume(*vmm);
  taken.serve();
  const GuestStats later = wait_for(*vmm, [&](const GuestStats& now) {
    return now.verify_passes > before.verify_passes + 1 &&
           now.pages_written > before.pages_written + 300;
  });
  EXPECT_EQ(later.verify_errors, 0u);
  pause(*vmm);
}

TEST_F(LazyMemory, AGuestThatWaitsForAPageSavesItsState) {
  const auto vmm = make_used();
  TakenPages taken(*vmm);
  resume(*vmm);
  ASSERT_NE(taken.wait_for_fault(), -1);
  pause(*vmm);
  // Registers as they were before the access: it is made again.
  for (const int vcpu : vmm->kvm_vm().vcpu_fds) {
    kvm_regs regs{};
    ASSERT_EQ(::ioctl(vcpu, KVM_GET_REGS, &regs), 0);
    EXPECT_GE(regs.rip, demo::kProgram);
    EXPECT_LT(regs.rip, demo::kProgram + demo::image().size());
  }
}

TEST_F(LazyMemory, AGuestThatWaitsForAPageCanBeStopped) {
  const auto vmm = make_used();
  TakenPages taken(*vmm);
  resume(*vmm);
  ASSERT_NE(taken.wait_for_fault(), -1);
  vmm->stop();
  EXPECT_EQ(vmm->state(), VmmState::kStopped);
}

TEST_F(LazyMemory, WhatAGuestTouchesFirstIsNamed) {
  const auto vmm = make_used();
  const auto& slot = vmm->kvm_vm().slots[0];
  const std::vector<Region> regions = {region_of(slot)};
  PageBitmap pages(regions);
  VmmSourceHooks hooks(vmm);
  const Status named = hooks.first_pages(pages);
  ASSERT_TRUE(named) << named.error().to_text();
  const auto has = [&](std::uint64_t address) {
    return pages.test(regions[0].id, GuestAddr{address}.page());
  };
  for (const std::uint64_t address :
       {demo::kControlBlock, demo::kCounters, demo::kProgram, demo::kPageTables,
        demo::kPageTables + demo::kPage, demo::kPageTables + 2 * demo::kPage,
        demo::kStacks + demo::kStackBytes - 1, demo::kStacks + 2 * demo::kStackBytes - 1}) {
    EXPECT_TRUE(has(address)) << std::hex << address;
  }
  for (const int vcpu : vmm->kvm_vm().vcpu_fds) {
    kvm_regs regs{};
    ASSERT_EQ(::ioctl(vcpu, KVM_GET_REGS, &regs), 0);
    EXPECT_TRUE(has(regs.rip));
    EXPECT_TRUE(has(regs.rsp));
  }
  EXPECT_FALSE(has(demo::kTables)) << "data";
  EXPECT_LT(pages.count(), demo::kTables / demo::kPage / 2) << "they are sent while it stands";
  // Sets of other regions are left as they are.
  const std::vector<Region> others = {{RegionId{7, 7, 7}, {GuestPage{0}, 16}, Backing::kUnknown}};
  PageBitmap foreign(others);
  EXPECT_TRUE(hooks.first_pages(foreign));
  EXPECT_EQ(foreign.count(), 0u);

  resume(*vmm);
  const Status running = hooks.first_pages(pages);
  ASSERT_FALSE(running);
  EXPECT_EQ(running.error().code, ErrorCode::kBusy);
}

TEST_F(LazyMemory, ThreadsOfVcpusAreToldByTheirNumber) {
  const auto vmm = make("idle", 16 << 20, 4);
  const std::vector<int> threads = vmm->vcpu_threads();
  ASSERT_EQ(threads.size(), 4u);
  for (std::size_t id = 0; id < threads.size(); ++id) {
    std::ifstream comm("/proc/self/task/" + std::to_string(threads[id]) + "/comm");
    std::string name;
    comm >> name;
    EXPECT_EQ(name, "vcpu" + std::to_string(id));
  }
  EXPECT_TRUE(VmmTargetHooks().vcpu_threads().empty()) << "no guest has been built";
}

}  // namespace
}  // namespace migrate::vmm
