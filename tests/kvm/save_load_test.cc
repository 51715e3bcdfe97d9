// A guest's whole state saved from one VM and loaded into another: it goes on there as if nothing
// had happened.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "tests/kvm/tiny_guest_hooks.hpp"

namespace migrate {
namespace {

using ::testing::HasSubstr;
using testing::Sections;
using testing::TinyGuest;
using testing::TinyGuestOptions;
using testing::TinyMigration;

class SaveLoad : public ::testing::Test {
 protected:
  void SetUp() override { MIGRATE_NEEDS_KVM(); }
};

struct Shape {
  std::uint32_t vcpus;
  bool irqchip;
};
[[maybe_unused]] void PrintTo(const Shape& shape, std::ostream* out) {
  *out << shape.vcpus << " vCPUs" << (shape.irqchip ? "" : " without irqchip");
}

class MovedGuest : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override { MIGRATE_NEEDS_KVM(); }
  static TinyGuestOptions options() {
    TinyGuestOptions result;
    result.vcpus = GetParam().vcpus;
    result.irqchip = GetParam().irqchip;
    result.slot_pages = {2100, 1999};
    return result;
  }
};

INSTANTIATE_TEST_SUITE_P(Shapes, MovedGuest,
                         ::testing::Values(Shape{1, true}, Shape{2, true}, Shape{8, true},
                                           Shape{1, false}),
                         [](const auto& shape) {
                           return std::to_string(shape.param.vcpus) + "Vcpus" +
                                  (shape.param.irqchip ? "" : "WithoutIrqchip");
                         });

void expect_same_registers(const TinyGuest& a, const TinyGuest& b) {
  for (std::uint32_t i = 0; i < a.options().vcpus; ++i) {
    const TinyGuest::Registers left = a.registers(i);
    const TinyGuest::Registers right = b.registers(i);
    EXPECT_EQ(left.rip, right.rip) << "vCPU " << i;
    EXPECT_EQ(left.r8, right.r8) << "vCPU " << i;
    EXPECT_EQ(left.r10, right.r10) << "vCPU " << i;
    EXPECT_EQ(left.rax, right.rax) << "vCPU " << i;
    EXPECT_EQ(left.xmm0, right.xmm0) << "vCPU " << i;
    EXPECT_EQ(left.xmm15, right.xmm15) << "vCPU " << i;
    EXPECT_GT(right.r8, 0U);
  }
}

TEST_P(MovedGuest, GoesOnWithItsRegistersMemoryAndTime) {
  TinyMigration migration(options());
  migration.run_and_prepare();
  ASSERT_TRUE(migration.save());
  migration.copy_memory();
  const Status loaded = migration.load();
  ASSERT_TRUE(loaded) << loaded.error().to_text();
  EXPECT_EQ(migration.target_hooks.device, "device state");
  TinyGuest& arrived = *migration.target_hooks.guest;
  expect_same_registers(migration.guest, arrived);

  ASSERT_TRUE(migration.target->start(RunState::kRunning));
  arrived.wait_for_sweeps(3);
  arrived.pause();
  for (std::uint32_t i = 0; i < GetParam().vcpus; ++i) {
    const TinyGuest::Registers before = migration.guest.registers(i);
    const TinyGuest::Registers after = arrived.registers(i);
    EXPECT_GE(after.r8, before.r8 + 2) << "vCPU " << i;
    EXPECT_LE(after.r8 - after.xmm0, 1U) << "the vector registers go on too";
    EXPECT_LE(after.xmm0 - after.xmm15, 1U);
    EXPECT_GE(after.r10, before.r10) << "the TSC went back";
    EXPECT_EQ(after.r11, 0U) << "the guest itself saw its TSC go back";
  }
  // The counters in memory go on from where they stood.
  EXPECT_GT(arrived.word(1024), migration.guest.word(1024));
}

TEST_P(MovedGuest, SecondAttemptAfterAFailedOneCarriesTheNewerState) {
  TinyMigration migration(options());
  migration.run_and_prepare();
  ASSERT_TRUE(migration.save());
  ASSERT_TRUE(migration.load());
  const std::uint64_t first = migration.guest.registers(0).r8;
  ASSERT_TRUE(migration.source->resume());
  migration.guest.wait_for_sweeps(3);
  ASSERT_TRUE(migration.source->pause());
  EXPECT_GT(migration.guest.registers(0).r8, first) << "the source goes on after the first";
  ASSERT_TRUE(migration.save());
  migration.copy_memory();
  const Status loaded = migration.load();
  ASSERT_TRUE(loaded) << loaded.error().to_text();
  expect_same_registers(migration.guest, *migration.target_hooks.guest);
  ASSERT_TRUE(migration.target->start(RunState::kRunning));
  migration.target_hooks.guest->wait_for_sweeps(1);
}

TEST_F(SaveLoad, MemoryIsFinalOnlyAfterDevicesAndVcpusWereRead) {
  TinyMigration migration;
  migration.run_and_prepare();
  ASSERT_TRUE(migration.save());
  ASSERT_EQ(migration.sections.list.size(), 3U);
  EXPECT_EQ(migration.sections.list[0].info.name, "tiny.device");
  EXPECT_EQ(migration.sections.before_final, 1U);
  EXPECT_EQ(migration.sections.list[1].info.name, "kvm.vm");
  EXPECT_EQ(migration.sections.list[2].info.name, "kvm.vcpu.0");
}

TEST_F(SaveLoad, DescribingARunningGuestLetsItRunOnAndStopsItAtMostOnce) {
  TinyMigration migration;
  ASSERT_TRUE(migration.source_hooks.resume());
  ASSERT_TRUE(migration.source->describe());
  EXPECT_EQ(migration.source_hooks.pauses, 1);
  EXPECT_EQ(migration.source_hooks.state, RunState::kRunning);
  migration.guest.wait_for_sweeps(1);
  ASSERT_TRUE(migration.source->describe());
  EXPECT_EQ(migration.source_hooks.pauses, 1);
}

TEST_F(SaveLoad, AModelTakenBeforehandSparesThePause) {
  TinyGuest guest;
  KvmVm vm = guest.vm();
  auto model = capture_cpu_model(vm);
  ASSERT_TRUE(model) << model.error().to_text();
  vm.cpu_model = *std::move(model);
  testing::TinySourceHooks hooks(guest);
  auto source = make_kvm_source(vm, hooks);
  ASSERT_TRUE(source);
  ASSERT_TRUE(hooks.resume());
  const auto description = (*source)->describe();
  ASSERT_TRUE(description) << description.error().to_text();
  EXPECT_EQ(hooks.pauses, 0);
  EXPECT_EQ(description->vcpus, 1U);
  EXPECT_EQ(description->properties.back().info.name, "tiny.device");
}

TEST_F(SaveLoad, APausedGuestIsDescribedAndStaysPaused) {
  TinyMigration migration;
  ASSERT_TRUE(migration.source->describe());
  EXPECT_EQ(migration.source_hooks.state, RunState::kPaused);
}

// Whatever is missing or damaged, load_state() says so; a later attempt with good state works.
TEST_F(SaveLoad, DamagedSectionsAreErrorsAndTheNextAttemptWorks) {
  TinyGuestOptions options;
  options.vcpus = 2;
  TinyMigration migration(options);
  migration.run_and_prepare();
  ASSERT_TRUE(migration.save());
  migration.copy_memory();
  const Sections good = migration.sections;
  const auto refused = [&](auto change, std::string_view why) {
    migration.sections = good;
    change(migration.sections);
    const Status loaded = migration.load();
    ASSERT_FALSE(loaded) << why;
    EXPECT_THAT(loaded.error().message, HasSubstr(std::string(why)));
  };
  refused([](Sections& s) { s.at("kvm.vcpu.1").body.resize(100); }, "cut short at byte");
  refused([](Sections& s) { s.at("kvm.vcpu.1").body.clear(); }, "vCPU 1");
  refused([](Sections& s) { s.at("kvm.vcpu.1").info.version = 9; }, "version 9");
  refused([](Sections& s) { s.at("kvm.vm").info.version = 9; }, "kvm.vm is of version 9");
  refused([](Sections& s) { s.at("kvm.vcpu.1").info.name = "kvm.vcpu.2"; }, "out of place");
  refused([](Sections& s) { s.at("kvm.vcpu.1").info.name = "kvm.vcpu.0"; }, "out of place");
  refused([](Sections& s) { s.at("kvm.vcpu.1").info.name = "kvm.vcpu.x"; }, "kvm.vcpu.x");
  refused([](Sections& s) { s.at("kvm.vm").info.name = "kvm.else"; }, "kvm.else");
  refused([](Sections& s) { s.list.pop_back(); }, "lacks a vCPU");
  refused([](Sections& s) { s.list.erase(s.list.begin() + 1); }, "lacks section kvm.vm");
  refused([](Sections& s) { s.at("kvm.vcpu.0").body.resize(1 << 20); }, "");
  migration.sections = good;
  const Status loaded = migration.load();
  ASSERT_TRUE(loaded) << loaded.error().to_text();
  expect_same_registers(migration.guest, *migration.target_hooks.guest);
}

TEST_F(SaveLoad, StateOfFlippedBitsIsLoadedOrRefusedButNeverCrashes) {
  TinyMigration migration;
  migration.run_and_prepare();
  ASSERT_TRUE(migration.save());
  migration.copy_memory();
  const Sections good = migration.sections;
  std::mt19937_64 random(42);
  for (int i = 0; i < 200; ++i) {
    migration.sections = good;
    for (Sections::Section& section : migration.sections.list) {
      if (section.body.empty()) continue;
      section.body[random() % section.body.size()] ^= static_cast<std::byte>(1U << random() % 8);
    }
    (void)migration.load();
  }
  migration.sections = good;
  EXPECT_TRUE(migration.load());
}

/// The body of the block of `kind` in a section.
std::span<std::byte> block_of(std::vector<std::byte>& section, std::uint16_t kind) {
  for (std::size_t at = 0; at + 8 <= section.size();) {
    std::uint16_t found = 0;
    std::uint32_t length = 0;
    std::memcpy(&found, section.data() + at, sizeof found);
    std::memcpy(&length, section.data() + at + 4, sizeof length);
    if (found == kind) return {section.data() + at + 8, length};
    at += 8 + length;
  }
  throw std::out_of_range("no block of this kind");
}

// Where the source's kernel did not read its TSC and clock together, the former way is taken.
TEST_F(SaveLoad, AGuestWhoseSourceGaveNoHostTscGoesOnToo) {
  TinyGuestOptions options;
  options.vcpus = 2;
  TinyMigration migration(options);
  migration.run_and_prepare();
  ASSERT_TRUE(migration.save());
  migration.copy_memory();
  const std::span<std::byte> clock = block_of(migration.sections.at("kvm.vm").body, 36);
  std::fill(clock.begin() + 16, clock.begin() + 32, std::byte{0});
  const Status loaded = migration.load();
  ASSERT_TRUE(loaded) << loaded.error().to_text();
  ASSERT_TRUE(migration.target->start(RunState::kRunning));
  migration.target_hooks.guest->wait_for_sweeps(2);
  migration.target_hooks.guest->pause();
  for (std::uint32_t i = 0; i < 2; ++i) {
    EXPECT_EQ(migration.target_hooks.guest->registers(i).r11, 0U) << "the TSC went back";
  }
}

TEST_F(SaveLoad, TheKvmClockGoesOnWhereItStood) {
  TinyMigration migration;
  migration.run_and_prepare();
  ASSERT_TRUE(migration.save());
  migration.copy_memory();
  ASSERT_TRUE(migration.load());
  const auto clock_of = [](const TinyGuest& guest) {
    kvm_clock_data clock{};
    EXPECT_EQ(::ioctl(guest.vm().vm_fd, KVM_GET_CLOCK, &clock), 0);
    return static_cast<std::int64_t>(clock.clock);
  };
  std::int64_t saved = 0;
  std::memcpy(&saved, block_of(migration.sections.at("kvm.vm").body, 36).data(), sizeof saved);
  const std::int64_t there = clock_of(*migration.target_hooks.guest);
  EXPECT_GE(there, saved) << "the guest's clock went back";
  // Both hosts are this one, so it also keeps up with the source's, which goes on.
  const std::int64_t here = clock_of(migration.guest);
  EXPECT_LE(there, here + 1'000'000);
}

TEST_F(SaveLoad, AnMsrThatIsRefusedWithItsValueLostIsAnError) {
  TinyMigration migration;
  migration.run_and_prepare();
  ASSERT_TRUE(migration.save());
  // No such MSR exists: KVM refuses it, and here it does not have the value.
  const std::uint64_t entry[2] = {0x7fff1234, 77};
  const std::span<std::byte> msrs = block_of(migration.sections.at("kvm.vcpu.0").body, 9);
  std::memcpy(msrs.data(), entry, sizeof entry);
  const Status loaded = migration.load();
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, ErrorCode::kIncompatible);
  EXPECT_THAT(loaded.error().message, HasSubstr("0x7fff1234"));
}

TEST_F(SaveLoad, DiscardDropsWhatWasBuiltOnce) {
  TinyMigration migration;
  migration.target->discard();
  EXPECT_EQ(migration.target_hooks.discards, 0);
  migration.run_and_prepare();
  migration.target->discard();
  migration.target->discard();
  EXPECT_EQ(migration.target_hooks.discards, 1);
  EXPECT_EQ(migration.target_hooks.guest, nullptr);
}

TEST_F(SaveLoad, AnIncompleteVmIsRefused) {
  TinyGuest guest;
  testing::TinySourceHooks hooks(guest);
  for (const auto change : {+[](KvmVm& vm) { vm.vm_fd = -1; }, +[](KvmVm& vm) { vm.slots.clear(); },
                            +[](KvmVm& vm) { vm.vcpu_fds.clear(); }}) {
    KvmVm vm = guest.vm();
    change(vm);
    EXPECT_FALSE(make_kvm_source(vm, hooks));
  }
}

}  // namespace
}  // namespace migrate
