// The guest's time on the other host: it never goes back, it is right by the wall, and vCPUs that
// agreed go on agreeing.
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "adapters/kvm/clock.hpp"
#include "adapters/kvm/msrs.hpp"
#include "adapters/kvm/state_codec.hpp"
#include "adapters/kvm/vm_state.hpp"
#include "tests/kvm/tiny_guest_hooks.hpp"

namespace migrate {
namespace {

using testing::TinyGuest;
using testing::TinyGuestOptions;
using testing::TinyMigration;

constexpr std::uint64_t kSecond = 1'000'000'000;

class GuestTime : public ::testing::Test {
 protected:
  void SetUp() override { MIGRATE_NEEDS_KVM(); }
};

std::optional<std::int64_t> tsc_offset(int vcpu) {
  std::int64_t offset = 0;
  kvm_device_attr attribute{};
  attribute.group = KVM_VCPU_TSC_CTRL;
  attribute.attr = KVM_VCPU_TSC_OFFSET;
  attribute.addr = reinterpret_cast<std::uintptr_t>(&offset);
  if (::ioctl(vcpu, KVM_GET_DEVICE_ATTR, &attribute) != 0) return std::nullopt;
  return offset;
}

std::vector<std::optional<std::int64_t>> tsc_offsets(const TinyGuest& guest) {
  std::vector<std::optional<std::int64_t>> offsets;
  for (const int vcpu : guest.vm().vcpu_fds) offsets.push_back(tsc_offset(vcpu));
  return offsets;
}

/// Whether KVM reads its clock from the TSC (master clock), as it does when all vCPUs agree.
bool has_master_clock(const TinyGuest& guest) {
  const auto reading = kvm::read_clock(guest.vm().vm_fd);
  EXPECT_TRUE(reading);
  return reading->has_host_tsc;
}

kvm::VmState vm_state(TinyMigration& migration) {
  auto state = kvm::decode_vm(migration.sections.at("kvm.vm").body);
  TinyMigration::must(state);
  return *state;
}

/// The guest arrives as if `seconds` more had passed on the way.
kvm::ClockReading arrive_later(TinyMigration& migration, std::int64_t seconds) {
  migration.run_and_prepare();
  EXPECT_TRUE(migration.save());
  migration.copy_memory();
  kvm::VmState state = vm_state(migration);
  state.clock.realtime_ns -= static_cast<std::uint64_t>(seconds) * kSecond;
  migration.sections.at("kvm.vm").body = kvm::encode(state);
  const Status loaded = migration.load();
  EXPECT_TRUE(loaded) << loaded.error().to_text();
  return state.clock;
}

std::uint64_t clock_of(const TinyGuest& guest) {
  const auto reading = kvm::read_clock(guest.vm().vm_fd);
  EXPECT_TRUE(reading);
  return reading->clock_ns;
}

TEST_F(GuestTime, VcpusWithOneTscKeepOneAndTheMasterClock) {
  TinyGuestOptions options;
  options.vcpus = 8;
  TinyMigration migration(options);
  migration.run_and_prepare();
  const auto left = tsc_offsets(migration.guest);
  const bool master = has_master_clock(migration.guest);
  ASSERT_TRUE(migration.save());
  migration.copy_memory();
  ASSERT_TRUE(migration.load());
  TinyGuest& guest = *migration.target_hooks.guest;
  const auto arrived = tsc_offsets(guest);
  for (std::size_t i = 1; i < left.size(); ++i) {
    EXPECT_EQ(left[i] == left[0], arrived[i] == arrived[0]) << "vCPU " << i;
  }
  ASSERT_TRUE(migration.target->start(RunState::kRunning));
  guest.wait_for_sweeps(2);
  guest.pause();
  EXPECT_EQ(has_master_clock(guest), master);
  for (std::uint32_t i = 0; i < options.vcpus; ++i) {
    EXPECT_EQ(guest.registers(i).r11, 0U) << "vCPU " << i << " saw its TSC go back";
  }
}

TEST_F(GuestTime, IsMovedOnByTheTimeThatPassedOnTheWay) {
  TinyMigration migration;
  const kvm::ClockReading saved = arrive_later(migration, 5);
  const std::uint64_t there = clock_of(*migration.target_hooks.guest);
  EXPECT_GE(there, saved.clock_ns + 5 * kSecond);
  // Both hosts are this one: the source's clock, which goes on, is the measure.
  EXPECT_LE(there, clock_of(migration.guest) + 5 * kSecond + kSecond / 1000);
}

// The TSC is the guest's clock as well: both are moved on alike, where KVM shifts it at all.
TEST_F(GuestTime, TheTscIsMovedOnWithTheClock) {
  TinyMigration migration;
  arrive_later(migration, 5);
  const auto& notes = migration.target_hooks.notes;
  const bool fixed = std::any_of(notes.begin(), notes.end(), [](const std::string& note) {
    return note.find("does not shift") != std::string::npos;
  });
  const auto left = tsc_offset(migration.guest.vm().vcpu_fds[0]);
  const auto arrived = tsc_offset(migration.target_hooks.guest->vm().vcpu_fds[0]);
  ASSERT_EQ(left.has_value(), arrived.has_value());
  if (!left || fixed) return;
  auto state = kvm::decode_vcpu(migration.sections.at("kvm.vcpu.0").body);
  ASSERT_TRUE(state);
  // Without rounding: the formula's cycles for five seconds, up to what the two clock readings
  // differ by (the time between save and load is in both clocks alike).
  const auto cycles = static_cast<std::int64_t>(kvm::cycles_in(5 * kSecond, state->tsc_khz));
  EXPECT_NEAR(static_cast<double>(*arrived - *left), static_cast<double>(cycles),
              static_cast<double>(state->tsc_khz));
}

TEST_F(GuestTime, NeverGoesBackWhereTheHostsClocksDisagree) {
  TinyMigration migration;
  const kvm::ClockReading saved = arrive_later(migration, -3600);
  EXPECT_GE(clock_of(*migration.target_hooks.guest), saved.clock_ns);
  ASSERT_TRUE(migration.target->start(RunState::kRunning));
  migration.target_hooks.guest->wait_for_sweeps(2);
  migration.target_hooks.guest->pause();
  EXPECT_EQ(migration.target_hooks.guest->registers(0).r11, 0U);
}

// kvmclock's page of a vCPU: in it KVM says that the guest was stopped, so that its watchdogs
// forgive the gap. After a pause at the source as after loading at the target.
class Kvmclock : public GuestTime {
 protected:
  static constexpr std::uint64_t kPage = 20;
  static constexpr std::size_t kFlags = 29;  // Of struct pvclock_vcpu_time_info.
  static constexpr std::byte kGuestStopped{2};

  static void use_kvmclock(const TinyGuest& guest) {
    constexpr std::uint32_t kMsrSystemTimeNew = 0x4b564d01;
    std::vector<kvm_msr_entry> refused;
    const kvm_msr_entry entry{kMsrSystemTimeNew, 0, kPage * kPageSize | 1};
    ASSERT_TRUE(kvm::write_msrs(guest.vm().vcpu_fds[0], {&entry, 1}, refused));
    ASSERT_TRUE(refused.empty());
  }
  static std::byte& flags(const TinyGuest& guest) { return guest.page(kPage)[kFlags]; }
  static bool told(const TinyGuest& guest) {
    return (flags(guest) & kGuestStopped) != std::byte{0};
  }
};

TEST_F(Kvmclock, AGuestThatGoesOnIsToldThatItStood) {
  TinyMigration migration;
  if (::ioctl(migration.guest.vm().vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_KVMCLOCK_CTRL) <= 0) {
    GTEST_SKIP() << "KVM here lacks KVM_KVMCLOCK_CTRL";
  }
  use_kvmclock(migration.guest);
  migration.run_and_prepare();
  // As the guest does when it has seen it.
  flags(migration.guest) &= ~kGuestStopped;
  ASSERT_TRUE(migration.source->resume());
  migration.guest.wait_for_sweeps(2);
  EXPECT_TRUE(told(migration.guest)) << "at the source";

  ASSERT_TRUE(migration.source->pause());
  flags(migration.guest) &= ~kGuestStopped;
  ASSERT_TRUE(migration.save());
  migration.copy_memory();
  ASSERT_TRUE(migration.load());
  ASSERT_TRUE(migration.target->start(RunState::kRunning));
  migration.target_hooks.guest->wait_for_sweeps(2);
  EXPECT_TRUE(told(*migration.target_hooks.guest)) << "at the target";
}

TEST_F(GuestTime, StandsStillRatherThanLeapsWhenTooMuchSeemsToHavePassed) {
  TinyMigration migration;
  const kvm::ClockReading saved = arrive_later(migration, 3600);
  const std::uint64_t there = clock_of(*migration.target_hooks.guest);
  EXPECT_GE(there, saved.clock_ns);
  EXPECT_LT(there, saved.clock_ns + 1800 * kSecond);
}

}  // namespace
}  // namespace migrate
