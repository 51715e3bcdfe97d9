// A machine for Linux, with a kernel small enough for every KVM: it starts, does I/O, moves with
// requests in flight, and ends in each of its ways.
#include <gmock/gmock.h>

#include <filesystem>

#include "tests/vmm_linux/linux_fixture.hpp"

namespace migrate::vmm {
namespace {

using ::testing::HasSubstr;

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
