#include "tests/vmm/vmm_fixture.hpp"

#include <fcntl.h>
#include <poll.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "base/fd.hpp"

namespace migrate::vmm {

namespace {

// Far above what anything here takes, also on a host with ten times the work it can do.
constexpr std::chrono::seconds kPatience{30};

}  // namespace

void VmmTest::SetUp() {
  if (!Fd(::open("/dev/kvm", O_RDWR | O_CLOEXEC))) {
    GTEST_SKIP() << "/dev/kvm does not open: " << std::strerror(errno);
  }
}

std::unique_ptr<Vmm> VmmTest::make(std::string_view workload, std::uint64_t memory_bytes,
                                   std::uint32_t vcpus) {
  VmmConfig config;
  config.name = "test";
  config.memory_bytes = memory_bytes;
  config.vcpus = vcpus;
  config.workload = parse_workload(workload).value();
  auto vmm = Vmm::create(config);
  if (!vmm) throw std::runtime_error(vmm.error().to_text());
  return *std::move(vmm);
}

void VmmTest::resume(Vmm& vmm) {
  const auto status = vmm.resume();
  ASSERT_TRUE(status) << status.error().to_text();
}

void VmmTest::pause(Vmm& vmm) {
  const auto paused = vmm.pause();
  ASSERT_TRUE(paused) << paused.error().to_text();
}

GuestStats VmmTest::stats_of(const Vmm& vmm) {
  auto stats = vmm.stats();
  if (!stats) throw std::runtime_error(stats.error().to_text());
  return *std::move(stats);
}

GuestStats VmmTest::wait_for(const Vmm& vmm,
                             const std::function<bool(const GuestStats&)>& reached) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  for (;;) {
    GuestStats stats = stats_of(vmm);
    if (reached(stats)) return stats;
    if (vmm.state() == VmmState::kFailed) throw std::runtime_error(vmm.failure()->to_text());
    if (std::chrono::steady_clock::now() > deadline) {
      throw std::runtime_error("the guest did not get there");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void VmmTest::wait_ended(const Vmm& vmm) {
  pollfd ended{vmm.ended_fd(), POLLIN, 0};
  const auto patience = std::chrono::duration_cast<std::chrono::milliseconds>(kPatience);
  ASSERT_EQ(::poll(&ended, 1, static_cast<int>(patience.count())), 1) << "the guest goes on";
}

demo::ControlBlock& VmmTest::plan_of(const Vmm& vmm) {
  return *reinterpret_cast<demo::ControlBlock*>(vmm.kvm_vm().slots[0].host + demo::kControlBlock);
}

std::uint64_t* VmmTest::words_of(const Vmm& vmm, std::uint64_t page) {
  const std::uint64_t address = demo::address_of_page(page);
  for (const KvmMemorySlot& slot : vmm.kvm_vm().slots) {
    const std::uint64_t offset = address - slot.guest_address.value;
    if (address < slot.guest_address.value || offset >= slot.bytes) continue;
    return reinterpret_cast<std::uint64_t*>(slot.host + offset);
  }
  throw std::runtime_error("no such page");
}

}  // namespace migrate::vmm
