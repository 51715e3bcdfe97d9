// A machine for Linux, with a kernel small enough for every KVM: it starts, does I/O, moves with
// requests in flight, and ends in each of its ways.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "adapters/kvm/vmm/migration_hooks.hpp"
#include "base/fd.hpp"
#include "tests/vmm/section_tape.hpp"
#include "tests/vmm_devices/kernel_file.hpp"
#include "tests/vmm_devices/temporary_disk.hpp"
#include "tests/vmm_devices/virtio_driver.hpp"
#include "tests/vmm_linux/tiny_kernel.hpp"

namespace migrate::vmm {
namespace {

using test::eventually;
using test::TemporaryDisk;
using ::testing::HasSubstr;
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

TEST_F(LinuxGuestTest, AKernelStartsAndUsesItsDisk) {
  const auto vmm = run(make());
  expect_progress(*vmm);
  EXPECT_EQ(value(*vmm, &Shared::starts), 1u);
  EXPECT_EQ(value(*vmm, &Shared::empty_port), 0xffu);
  EXPECT_EQ(value(*vmm, &Shared::empty_memory), 0xffff'ffffu);
  EXPECT_EQ(vmm->console(), "tiny kernel\n");
  std::ifstream file(console());
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "tiny kernel\n");
  const auto paused = vmm->pause();
  ASSERT_TRUE(paused) << paused.error().to_text();
  const std::uint64_t rounds = value(*vmm, &Shared::rounds);
  ASSERT_TRUE(vmm->resume());
  expect_progress(*vmm);
  EXPECT_GT(value(*vmm, &Shared::rounds), rounds);
}

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

TEST_F(LinuxGuestTest, ItMovesWithRequestsInFlightAndItsDisk) {
  std::shared_ptr<Vmm> here = run(make());
  constexpr int kMoves = 5;
  for (int move = 0; move < kMoves; ++move) {
    expect_progress(*here);
    Move leaving(here);
    const auto description = leaving.source().describe();
    ASSERT_TRUE(description) << description.error().to_text();
    ArrivalConfig there = arrival();
    if (move == kMoves - 1) there.kernel.clear();
    VmmTargetHooks hooks(there);
    const auto target = make_kvm_target(here->kvm_vm().kvm_fd, hooks);
    const Status prepared = target->prepare(*description);
    ASSERT_TRUE(prepared) << prepared.error().to_text();
    ASSERT_TRUE(leaving.copy_all(*hooks.vmm()));
    expect_progress(*here);
    ASSERT_TRUE(leaving.source().pause());
    Sections state;
    const Status sent = leaving.copy_rest(*hooks.vmm(), state);
    ASSERT_TRUE(sent) << sent.error().to_text();
    const auto& slot = here->kvm_vm().slots[0];
    ASSERT_EQ(std::memcmp(slot.host, hooks.vmm()->kvm_vm().slots[0].host, slot.bytes), 0)
        << "what a device wrote was not marked";

    Player player(state);
    const Status loaded = target->load_state(player);
    ASSERT_TRUE(loaded) << loaded.error().to_text();
    // The disk is one host's at a time.
    EXPECT_EQ(target->acquire().error().code, ErrorCode::kBusy);
    ASSERT_TRUE(leaving.source().relinquish());
    ASSERT_TRUE(target->acquire());
    EXPECT_EQ(leaving.source().reclaim().error().code, ErrorCode::kBusy);
    const std::uint64_t rounds = value(*here, &Shared::rounds);
    ASSERT_TRUE(target->start(RunState::kRunning));
    ASSERT_TRUE(leaving.source().release());
    here = hooks.vmm();
    expect_progress(*here);
    EXPECT_GT(value(*here, &Shared::rounds), rounds);
    EXPECT_EQ(value(*here, &Shared::starts), 1u);
  }
  // It has come to a host that has not got its kernel.
  order(*here, Order::kReset);
  expect_end(*here, VmmState::kStopped);
}

TEST_F(LinuxGuestTest, ItRestartsWhereItHasArrived) {
  const auto here = run(make());
  expect_progress(*here);
  Move leaving(here);
  const auto description = leaving.source().describe();
  ASSERT_TRUE(description);
  VmmTargetHooks hooks(arrival());
  const auto target = make_kvm_target(here->kvm_vm().kvm_fd, hooks);
  ASSERT_TRUE(target->prepare(*description));
  ASSERT_TRUE(leaving.copy_all(*hooks.vmm()));
  ASSERT_TRUE(leaving.source().pause());
  Sections state;
  ASSERT_TRUE(leaving.copy_rest(*hooks.vmm(), state));
  Player player(state);
  ASSERT_TRUE(target->load_state(player));
  ASSERT_TRUE(leaving.source().relinquish());
  ASSERT_TRUE(target->acquire());
  ASSERT_TRUE(target->start(RunState::kRunning));
  order(*hooks.vmm(), Order::kReset);
  ASSERT_TRUE(eventually([&] { return value(*hooks.vmm(), &Shared::starts) == 2; }));
  expect_progress(*hooks.vmm());
}

TEST_F(LinuxGuestTest, AHandoverThatFailsGivesTheDiskBack) {
  const auto here = run(make());
  expect_progress(*here);
  Move leaving(here);
  const auto description = leaving.source().describe();
  ASSERT_TRUE(description);
  VmmTargetHooks hooks(arrival());
  const auto target = make_kvm_target(here->kvm_vm().kvm_fd, hooks);
  ASSERT_TRUE(target->prepare(*description));
  ASSERT_TRUE(leaving.source().pause());
  Sections state;
  Recorder recorder(state);
  ASSERT_TRUE(leaving.source().save_state(recorder));
  // A device's section is lost on the way.
  Sections broken = state;
  std::erase_if(broken, [](const auto& section) { return section.info.name == "vmm.serial"; });
  ASSERT_EQ(broken.size() + 1, state.size());
  Player half(broken);
  ASSERT_TRUE(target->load_state(half));
  ASSERT_TRUE(leaving.source().relinquish());
  const Status lacking = target->acquire();
  EXPECT_EQ(lacking.error().code, ErrorCode::kProtocol);
  EXPECT_THAT(lacking.error().message, HasSubstr("vmm.serial"));
  // The same target takes a second attempt, and gives way.
  Player whole(state);
  ASSERT_TRUE(target->load_state(whole));
  ASSERT_TRUE(target->acquire());
  ASSERT_TRUE(target->yield());
  ASSERT_TRUE(leaving.source().reclaim());
  EXPECT_EQ(Vmm::create(config()).error().code, ErrorCode::kBusy);
  target->discard();
  ASSERT_TRUE(leaving.source().resume());
  expect_progress(*here);
}

TEST_F(LinuxGuestTest, ItSwitchesItselfOff) {
  const auto vmm = run(make());
  expect_progress(*vmm);
  order(*vmm, Order::kOff);
  expect_end(*vmm, VmmState::kStopped);
}

TEST_F(LinuxGuestTest, ItsPanicIsTold) {
  const auto vmm = run(make());
  expect_progress(*vmm);
  order(*vmm, Order::kPanic);
  expect_end(*vmm, VmmState::kFailed);
  EXPECT_THAT(vmm->failure()->message, HasSubstr("panicked"));
}

TEST_F(LinuxGuestTest, ATripleFaultIsTold) {
  const auto vmm = run(make());
  expect_progress(*vmm);
  order(*vmm, Order::kTripleFault);
  expect_end(*vmm, VmmState::kFailed);
  EXPECT_THAT(vmm->failure()->message, HasSubstr("crashed on vCPU 0"));
}

TEST_F(LinuxGuestTest, ItRestartsInPlace) {
  const auto vmm = run(make());
  for (std::uint64_t starts = 2; starts < 5; ++starts) {
    expect_progress(*vmm);
    order(*vmm, Order::kReset);
    ASSERT_TRUE(eventually([&] { return value(*vmm, &Shared::starts) == starts; }));
    expect_progress(*vmm);
  }
  // A pause comes between the wish and the restart, or before, or after: it stands then.
  order(*vmm, Order::kReset);
  const auto paused = vmm->pause();
  ASSERT_TRUE(paused) << paused.error().to_text();
  EXPECT_EQ(vmm->state(), VmmState::kPaused);
  ASSERT_TRUE(vmm->resume());
  ASSERT_TRUE(eventually([&] { return value(*vmm, &Shared::starts) == 5; }));
  expect_progress(*vmm);
  EXPECT_EQ(vmm->console(), "tiny kernel\ntiny kernel\ntiny kernel\ntiny kernel\ntiny kernel\n");
}

TEST_F(LinuxGuestTest, WithoutItsKernelItStopsInsteadOfRestarting) {
  const auto vmm = run(make());
  expect_progress(*vmm);
  std::filesystem::remove(kernel());
  order(*vmm, Order::kReset);
  expect_end(*vmm, VmmState::kFailed);
  EXPECT_THAT(vmm->failure()->message, HasSubstr("kernel"));
}

}  // namespace
}  // namespace migrate::vmm
