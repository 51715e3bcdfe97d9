// What tests of a machine for Linux share: a guest of a kernel small enough for every KVM, and a
// way for it to another machine.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "adapters/kvm/vmm/migration_hooks.hpp"
#include "base/fd.hpp"
#include "tests/vmm/section_tape.hpp"
#include "tests/vmm_devices/kernel_file.hpp"
#include "tests/vmm_devices/temporary_disk.hpp"
#include "tests/vmm_devices/virtio_driver.hpp"
#include "tests/vmm_linux/tiny_kernel.hpp"

namespace migrate::vmm {

using test::eventually;
using test::TemporaryDisk;
using tiny::Order;
using tiny::Shared;

class LinuxGuestTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const Fd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (!kvm) GTEST_SKIP() << "/dev/kvm does not open: " << std::strerror(errno);
    std::vector<std::byte> file = test::kernel_file();
    std::ifstream program(TINY_KERNEL, std::ios::binary);
    const std::string code{std::istreambuf_iterator<char>(program), {}};
    ASSERT_FALSE(code.empty());
    ASSERT_LE(code.size(), test::kKernelPayloadBytes);
    std::memcpy(file.data() + file.size() - test::kKernelPayloadBytes, code.data(), code.size());
    std::ofstream(kernel(), std::ios::binary)
        .write(reinterpret_cast<const char*>(file.data()),
               static_cast<std::streamsize>(file.size()));
  }
  [[nodiscard]] std::string kernel() const { return disk_.folder() + "/kernel"; }
  [[nodiscard]] std::string console() const { return disk_.folder() + "/console"; }

  [[nodiscard]] VmmConfig config() const {
    VmmConfig config;
    config.name = "tiny";
    config.memory_bytes = 32 << 20;
    LinuxGuest& guest = config.linux_guest.emplace();
    guest.kernel = kernel();
    guest.disks = {{disk_.path(), false, 0}};
    guest.console = ConsoleConfig{ConsoleKind::kFile, console(), false};
    return config;
  }
  [[nodiscard]] ArrivalConfig arrival() const {
    ArrivalConfig here;
    here.kernel = kernel();
    here.disks = {{disk_.path(), false, 0}};
    return here;
  }
  [[nodiscard]] std::shared_ptr<Vmm> make() const {
    auto vmm = Vmm::create(config());
    if (!vmm) throw std::runtime_error(vmm.error().to_text());
    return *std::move(vmm);
  }
  static std::shared_ptr<Vmm> run(std::shared_ptr<Vmm> vmm) {
    if (const Status running = vmm->resume(); !running) {
      throw std::runtime_error(running.error().to_text());
    }
    return vmm;
  }

  static std::uint64_t value(const Vmm& vmm, std::uint64_t Shared::*field) {
    auto& shared = *reinterpret_cast<Shared*>(vmm.kvm_vm().slots[0].host + tiny::kShared);
    return std::atomic_ref(shared.*field).load();
  }
  static void order(const Vmm& vmm, Order order) {
    auto& shared = *reinterpret_cast<Shared*>(vmm.kvm_vm().slots[0].host + tiny::kShared);
    std::atomic_ref(shared.order).store(static_cast<std::uint64_t>(order));
  }
  static void expect_progress(const Vmm& vmm) {
    const std::uint64_t before = value(vmm, &Shared::rounds);
    ASSERT_TRUE(eventually([&] {
      return value(vmm, &Shared::rounds) > before + 3 || vmm.state() == VmmState::kFailed;
    }));
    ASSERT_EQ(vmm.state(), VmmState::kRunning) << vmm.failure()->to_text();
    EXPECT_EQ(value(vmm, &Shared::errors), 0u);
  }
  static void expect_end(const Vmm& vmm, VmmState state) {
    pollfd ended{vmm.ended_fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&ended, 1, 60'000), 1);
    EXPECT_EQ(vmm.state(), state);
  }

  TemporaryDisk disk_{tiny::kSectors * 512};
};

/// A source and what it sends, without an engine: all pages while the guest runs, the dirty ones
/// when it stands.
class Move {
 public:
  explicit Move(std::shared_ptr<Vmm> from) : from_(std::move(from)), hooks_(from_) {
    auto source = make_kvm_source(from_->kvm_vm(), hooks_, source_options(*from_));
    if (!source) throw std::runtime_error(source.error().to_text());
    source_ = *std::move(source);
  }
  SourceGuest& source() { return *source_; }

  Status copy_all(const Vmm& to) {
    std::vector<Region> regions;
    for (const KvmMemorySlot& slot : from_->kvm_vm().slots) regions.push_back(region_of(slot));
    dirty_ = PageBitmap(regions);
    MIGRATE_TRY(source_->tracker().start());
    MIGRATE_TRY(source_->tracker().collect(dirty_));
    for (const Region& region : regions) {
      MIGRATE_TRY(source_->tracker().rearm(dirty_, region.id, region.range));
    }
    dirty_.clear_all();
    const KvmMemorySlot& slot = from_->kvm_vm().slots[0];
    std::memcpy(to.kvm_vm().slots[0].host, slot.host, slot.bytes);
    return {};
  }
  Status copy_rest(const Vmm& to, Sections& state) {
    Recorder recorder(state);
    MIGRATE_TRY(source_->save_state(recorder));
    MIGRATE_TRY(source_->tracker().collect(dirty_));
    const KvmMemorySlot& slot = from_->kvm_vm().slots[0];
    for (std::uint64_t page = 0; page < slot.bytes / kPageSize; ++page) {
      if (!dirty_.test(region_of(slot).id, GuestPage{page})) continue;
      std::memcpy(to.kvm_vm().slots[0].host + page * kPageSize, slot.host + page * kPageSize,
                  kPageSize);
    }
    return source_->tracker().stop();
  }

 private:
  std::shared_ptr<Vmm> from_;
  VmmSourceHooks hooks_;
  std::unique_ptr<SourceGuest> source_;
  PageBitmap dirty_;
};

}  // namespace migrate::vmm
