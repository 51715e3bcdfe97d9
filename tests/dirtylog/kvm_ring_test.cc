// The dirty ring's tracker on a real guest: whatever the guest writes and whenever, a copy kept up
// by collecting and reading is its memory in the end; rings that are full all the time included.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <signal.h>
#include <sys/ioctl.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "tests/dirtylog/guest_copy.hpp"
#include "tests/kvm/tiny_guest.hpp"

namespace migrate {
namespace {

using testing::GuestCopy;
using testing::TinyGuest;
using testing::TinyGuestOptions;

constexpr std::uint32_t kSmallest = KvmDirtyRing::kEntriesMin;
constexpr std::chrono::seconds kPatience{30};

class KvmRing : public ::testing::Test {
 protected:
  void SetUp() override {
    MIGRATE_NEEDS_KVM();
    TinyGuestOptions bare;
    bare.programmed = false;
    const TinyGuest guest(bare);
    if (KvmDirtyRing::entries_max(guest.vm().vm_fd) == 0) {
      GTEST_SKIP() << "this KVM has no dirty ring (KVM_CAP_DIRTY_LOG_RING)";
    }
  }

  static std::unique_ptr<DirtyTracker> tracker_for(const TinyGuest& guest) {
    auto tracker = make_kvm_ring_tracker(guest.ring(), guest.slots());
    if (!tracker) throw std::runtime_error(tracker.error().to_text());
    return *std::move(tracker);
  }
  static PageBitmap collected(DirtyTracker& tracker, const TinyGuest& guest) {
    PageBitmap set(guest.regions());
    const Status status = tracker.collect(set);
    EXPECT_TRUE(status) << status.error().to_text();
    return set;
  }
  static PageBitmap peeked(DirtyTracker& tracker, const TinyGuest& guest) {
    PageBitmap set(guest.regions());
    EXPECT_TRUE(tracker.peek(set));
    return set;
  }
};

TinyGuestOptions ring_options(bool gated = false) {
  TinyGuestOptions options;
  options.ring_entries = kSmallest;
  options.gated = gated;
  return options;
}

/// More pages a vCPU than a ring of the smallest size takes, so that one sweep fills it.
TinyGuestOptions overflowing(std::uint32_t vcpus, bool gated = false) {
  TinyGuestOptions options = ring_options(gated);
  options.vcpus = vcpus;
  // Slots that end in the middle of a word; the sweeps cross from one into the other.
  options.slot_pages = {9001, 12000};
  options.sweep_first = 1024;
  options.sweep_pages = 16000;
  return options;
}

/// Waits until a ring has been full once more.
void wait_for_full_exit(const TinyGuest& guest) {
  const std::uint64_t before = guest.ring()->full_exits();
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (guest.ring()->full_exits() == before) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "no ring gets full";
    std::this_thread::yield();
  }
}

/// Collects and copies beside the running guest, until `rounds` are over and each vCPU has swept
/// over its pages a few times meanwhile.
void run_rounds(DirtyTracker& tracker, TinyGuest& guest, GuestCopy& copy, int rounds) {
  guest.resume();
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  const auto swept = [&] {
    for (std::uint32_t vcpu = 0; vcpu < guest.options().vcpus; ++vcpu) {
      if (guest.sweeps(vcpu) < 4) return false;
    }
    return true;
  };
  for (int round = 0; round < rounds || !swept(); ++round) {
    PageBitmap set(guest.regions());
    if (round % 3 == 0) {
      ASSERT_TRUE(tracker.peek(set));
    }
    set.clear_all();
    ASSERT_TRUE(tracker.collect(set));
    copy.read(set);
    ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "the guest does not write";
  }
  guest.pause();
  PageBitmap last(guest.regions());
  ASSERT_TRUE(tracker.collect(last));
  copy.read(last);
}

TEST_F(KvmRing, CopyEqualsMemoryBesideAWriterAtFullSpeed) {
  TinyGuestOptions options = ring_options();
  options.ring_entries = KvmDirtyRing::kEntriesDefault;
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  GuestCopy copy(guest);
  copy.read_all();
  run_rounds(*tracker, guest, copy, 200);
  EXPECT_EQ(copy.pages_that_differ(), 0U);
  EXPECT_TRUE(tracker->stop());
}

TEST_F(KvmRing, CopyEqualsMemoryWithRingsThatAreFullAllTheTime) {
  for (const std::uint32_t vcpus : {1U, 3U}) {
    TinyGuest guest(overflowing(vcpus));
    const auto tracker = tracker_for(guest);
    ASSERT_TRUE(tracker->start());
    GuestCopy copy(guest);
    copy.read_all();
    guest.resume();
    for (int round = 0; round < 12; ++round) {
      wait_for_full_exit(guest);
      copy.read(collected(*tracker, guest));
    }
    guest.pause();
    copy.read(collected(*tracker, guest));
    EXPECT_EQ(copy.pages_that_differ(), 0U) << vcpus << " vCPUs";
  }
}

// What vCPU threads take from their full rings, the collecting thread must not hand out before it
// is re-armed.
TEST_F(KvmRing, CopyEqualsMemoryWhileFullRingsAreEmptiedBesideCollects) {
  TinyGuest guest(overflowing(2));
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  GuestCopy copy(guest);
  copy.read_all();
  guest.resume();
  // In steps that let rings fill up between two collects, early or late in a sweep.
  for (int round = 0; round < 60; ++round) {
    if (round % 5 == 0) wait_for_full_exit(guest);
    copy.read(collected(*tracker, guest));
  }
  guest.pause();
  copy.read(collected(*tracker, guest));
  EXPECT_EQ(copy.pages_that_differ(), 0U);
}

/// Sends a signal to the thread that made it, as fast as it can.
class SignalStorm {
 public:
  SignalStorm()
      : thread_([this, victim = ::pthread_self()] {
          while (!done_) {
            // The guest has a handler for this one, so that it ends no one.
            ::pthread_kill(victim, SIGUSR1);
            ++sent_;
          }
        }) {}
  ~SignalStorm() {
    done_ = true;
    thread_.join();
  }
  [[nodiscard]] std::uint64_t sent() const { return sent_; }

 private:
  std::atomic<bool> done_ = false;
  std::atomic<std::uint64_t> sent_ = 0;
  std::thread thread_;
};

// Linux from 6.16 on leaves a reset at once when a signal is pending, and never re-arms pages that
// it has taken off the ring by then: a later collect would miss them.
TEST_F(KvmRing, SignalsDuringACollectLoseNothing) {
  TinyGuestOptions options = overflowing(1, true);
  options.ring_entries = KvmDirtyRing::kEntriesDefault;
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  int disturbed = 0;
  for (int sweep = 0; sweep < 20 && disturbed < 6; ++sweep) {
    guest.sweep(1);
    PageBitmap set(guest.regions());
    {
      const SignalStorm storm;
      while (storm.sent() == 0) std::this_thread::yield();
      const std::uint64_t before = storm.sent();
      ASSERT_TRUE(tracker->collect(set));
      if (storm.sent() != before) ++disturbed;
    }
    ASSERT_GE(set.count(), options.sweep_pages) << "sweep " << sweep;
  }
}

// The mutation that the tests above must be able to see.
TEST_F(KvmRing, ReadingBeforeCollectingLosesPagesAndTheCopyShowsIt) {
  TinyGuestOptions options = ring_options(true);
  TinyGuest guest(options);
  // From now on KVM has no accessed bits to set in the guest's page tables.
  guest.sweep(1);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  GuestCopy copy(guest);
  copy.read_all();
  guest.sweep(1);
  (void)collected(*tracker, guest);
  EXPECT_GE(copy.pages_that_differ(), options.sweep_pages);
  guest.sweep(1);
  copy.read(collected(*tracker, guest));
  EXPECT_EQ(copy.pages_that_differ(), 0U);
}

TEST_F(KvmRing, ReportsExactlyTheSweptPagesInEachSlot) {
  const TinyGuestOptions options = overflowing(2, true);
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  for (int sweep = 0; sweep < 3; ++sweep) {
    guest.sweep(1);
    const PageBitmap set = collected(*tracker, guest);
    // Beyond the sweep KVM may write pages of its own accord (accessed bits of page tables).
    EXPECT_LE(set.count(), options.sweep_pages + 8);
    for (std::uint64_t i = 0; i < options.sweep_pages; ++i) {
      const std::uint64_t page = options.sweep_first + i;
      const RegionId region = guest.regions()[page < 9001 ? 0 : 1].id;
      ASSERT_TRUE(set.test(region, {page})) << "page " << page << " in sweep " << sweep;
    }
  }
  EXPECT_TRUE(collected(*tracker, guest).empty()) << "nothing was written since";
}

TEST_F(KvmRing, PeekShowsWrittenPagesAndTakesNone) {
  TinyGuestOptions options = overflowing(1, true);
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  EXPECT_TRUE(peeked(*tracker, guest).empty());
  guest.sweep(1);
  const PageBitmap first = peeked(*tracker, guest);
  EXPECT_GE(first.count(), options.sweep_pages);
  EXPECT_EQ(peeked(*tracker, guest).count(), first.count());
  EXPECT_EQ(collected(*tracker, guest).count(), first.count());
  EXPECT_TRUE(peeked(*tracker, guest).empty());
  // What was peeked is re-armed by the collect: later writes show.
  guest.sweep(1);
  EXPECT_GE(collected(*tracker, guest).count(), options.sweep_pages);
}

TEST_F(KvmRing, KeepsRegionsTheSetDoesNotHave) {
  TinyGuest guest(overflowing(1, true));
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  guest.sweep(1);
  const std::vector<Region> regions = guest.regions();
  PageBitmap first_only(std::span<const Region>(regions).first(1));
  ASSERT_TRUE(tracker->collect(first_only));
  EXPECT_GE(first_only.count(), 9001U - 1024U);
  PageBitmap second_only(std::span<const Region>(regions).last(1));
  ASSERT_TRUE(tracker->collect(second_only));
  EXPECT_GE(second_only.count(), 16000U - (9001U - 1024U));
}

TEST_F(KvmRing, TellsWhichVcpuWroteHowMuch) {
  TinyGuestOptions options = ring_options(true);
  options.vcpus = 2;
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  EXPECT_EQ(tracker->written_by_vcpu(), (std::vector<std::uint64_t>{0, 0}));
  guest.sweep(1);
  (void)peeked(*tracker, guest);
  const std::uint64_t share = options.sweep_pages / 2;
  std::vector<std::uint64_t> written = tracker->written_by_vcpu();
  ASSERT_EQ(written.size(), 2U);
  for (const std::uint64_t pages : written) {
    EXPECT_GE(pages, share);
    EXPECT_LE(pages, share + 8);
  }
  (void)collected(*tracker, guest);
  EXPECT_EQ(tracker->written_by_vcpu(), written) << "peeked pages count once";
  guest.sweep(1);
  (void)collected(*tracker, guest);
  EXPECT_GE(tracker->written_by_vcpu()[1], 2 * share);
}

TEST_F(KvmRing, AGuestRunsOnWithFullRingsThoughNoTrackerCollects) {
  TinyGuest guest(overflowing(2));
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  guest.resume();
  guest.wait_for_sweeps(3);
  EXPECT_GT(guest.ring()->full_exits(), 0U);
  guest.pause();
  EXPECT_GE(collected(*tracker, guest).count(), guest.options().sweep_pages);
}

TEST_F(KvmRing, AFullRingIsEmptiedWhenNoTrackerRuns) {
  TinyGuest guest(overflowing(1));
  // Logging that no tracker has begun, as if one had just gone.
  for (const KvmMemorySlot& slot : guest.slots()) {
    kvm_userspace_memory_region region{};
    region.slot = slot.slot;
    region.flags = KVM_MEM_LOG_DIRTY_PAGES;
    region.guest_phys_addr = slot.guest_address.value;
    region.memory_size = slot.bytes;
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(slot.host);
    ASSERT_EQ(::ioctl(guest.vm().vm_fd, KVM_SET_USER_MEMORY_REGION, &region), 0);
  }
  guest.resume();
  guest.wait_for_sweeps(2);
  EXPECT_GT(guest.ring()->full_exits(), 0U);
  guest.pause();
  // What was written before a tracker starts is not its business.
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  EXPECT_TRUE(collected(*tracker, guest).empty());
}

TEST_F(KvmRing, StopsAndStartsAgainBesideARunningGuest) {
  TinyGuest guest(overflowing(2));
  const auto tracker = tracker_for(guest);
  EXPECT_TRUE(tracker->stop()) << "harmless before start";
  guest.resume();
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(tracker->start());
    GuestCopy copy(guest);
    copy.read_all();
    guest.wait_for_sweeps(1);
    copy.read(collected(*tracker, guest));
    if (i % 2 == 0) {
      guest.pause();
      copy.read(collected(*tracker, guest));
      EXPECT_EQ(copy.pages_that_differ(), 0U) << "time " << i;
      guest.resume();
    }
    ASSERT_TRUE(tracker->stop());
  }
  const std::uint64_t exits = guest.ring()->full_exits();
  guest.wait_for_sweeps(3);
  EXPECT_EQ(guest.ring()->full_exits(), exits) << "a stopped tracker costs the guest nothing";
}

TEST_F(KvmRing, OnlyOneTrackerRunsAtATime) {
  TinyGuest guest(ring_options(true));
  const auto first = tracker_for(guest);
  const auto second = tracker_for(guest);
  ASSERT_TRUE(first->start());
  for (DirtyTracker* tracker : {first.get(), second.get()}) {
    const Status refused = tracker->start();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::kBusy);
  }
  EXPECT_TRUE(second->stop()) << "must not stop the first one's";
  guest.sweep(1);
  EXPECT_GE(collected(*first, guest).count(), guest.options().sweep_pages);
  ASSERT_TRUE(first->stop());
  EXPECT_TRUE(second->start());
}

// INITIALLY_SET is the VM's setting and would leave pages unprotected, whose writes no ring sees.
TEST_F(KvmRing, SeesAllWritesThoughTheVmWasSetToBeginWithEveryPageDirty) {
  TinyGuest guest(ring_options(true));
  kvm_enable_cap request{};
  request.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
  request.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
  if (::ioctl(guest.vm().vm_fd, KVM_ENABLE_CAP, &request) != 0) {
    GTEST_SKIP() << "this KVM does not take the setting on a VM with a ring";
  }
  guest.sweep(1);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  guest.sweep(1);
  EXPECT_GE(collected(*tracker, guest).count(), guest.options().sweep_pages);
}

TEST_F(KvmRing, TheBitmapTrackerSaysThatAVmWithARingHasNoBitmap) {
  TinyGuest guest(ring_options(true));
  auto bitmap = make_kvm_bitmap_tracker(guest.vm().vm_fd, guest.slots());
  ASSERT_TRUE(bitmap);
  const Status refused = (*bitmap)->start();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(refused.error().message.find("dirty ring"), std::string::npos);
  EXPECT_FALSE(refused.error().remedy.empty());
  // And nothing of the VM is changed.
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  guest.sweep(1);
  EXPECT_GE(collected(*tracker, guest).count(), guest.options().sweep_pages);
}

TEST_F(KvmRing, CoversWritesOfTheGuestAndOfKvmAndNoOthers) {
  TinyGuest guest(ring_options(true));
  const auto tracker = tracker_for(guest);
  EXPECT_EQ(tracker->covers(), (DirtyCoverage{.guest_cpu = true, .kvm = true}));
  EXPECT_TRUE(tracker->rearms_in_collect());
  EXPECT_EQ(tracker->name(), "kvm-ring");
  EXPECT_EQ(guest.ring()->entries(), kSmallest);
}

/// A VM without anything.
class BareVm {
 public:
  BareVm() : kvm_(::open("/dev/kvm", O_RDWR | O_CLOEXEC)) {
    vm_ = Fd(::ioctl(kvm_.get(), KVM_CREATE_VM, 0));
  }
  [[nodiscard]] int fd() const { return vm_.get(); }
  [[nodiscard]] Fd add_vcpu(unsigned long id) const {
    return Fd(::ioctl(vm_.get(), KVM_CREATE_VCPU, id));
  }

 private:
  Fd kvm_;
  Fd vm_;
};

TEST_F(KvmRing, WrongSizesAreRefusedWithThoseThatArePossible) {
  const BareVm vm;
  const std::uint32_t most = KvmDirtyRing::entries_max(vm.fd());
  ASSERT_GE(most, kSmallest);
  for (const std::uint32_t wrong : {0U, 1U, kSmallest / 2, kSmallest + 1, most * 2}) {
    const auto refused = KvmDirtyRing::enable(vm.fd(), wrong);
    ASSERT_FALSE(refused) << wrong;
    EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(refused.error().remedy.find(std::to_string(most)), std::string::npos);
  }
  EXPECT_TRUE(KvmDirtyRing::enable(vm.fd(), most));
}

TEST_F(KvmRing, ComesBeforeTheFirstVcpuAndOnce) {
  const BareVm vm;
  const Fd vcpu = vm.add_vcpu(0);
  ASSERT_TRUE(vcpu);
  const auto late = KvmDirtyRing::enable(vm.fd());
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, ErrorCode::kBusy);
  const BareVm other;
  ASSERT_TRUE(KvmDirtyRing::enable(other.fd()));
  const auto again = KvmDirtyRing::enable(other.fd());
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kBusy);
}

TEST_F(KvmRing, VcpusThatWereNotAddedAreNoticed) {
  const BareVm vm;
  auto ring = KvmDirtyRing::enable(vm.fd());
  ASSERT_TRUE(ring);
  TinyGuest guest;
  EXPECT_FALSE(make_kvm_ring_tracker(*ring, guest.slots())) << "no vCPU";
  EXPECT_FALSE((*ring)->add_vcpu(guest.vm().vcpu_fds.front())) << "a vCPU without a ring";
  EXPECT_FALSE((*ring)->on_ring_full(0));
  EXPECT_FALSE(make_kvm_ring_tracker(nullptr, guest.slots()));
}

TEST_F(KvmRing, SlotsTheVmLacksAreFoundAtTheStartAndNothingStaysBehind) {
  TinyGuest guest(ring_options(true));
  std::vector<KvmMemorySlot> slots(guest.slots().begin(), guest.slots().end());
  slots.push_back(slots.front());
  EXPECT_FALSE(make_kvm_ring_tracker(guest.ring(), slots)) << "one given twice";
  slots.back().slot = 7;
  auto tracker = make_kvm_ring_tracker(guest.ring(), slots);
  ASSERT_TRUE(tracker);
  EXPECT_FALSE((*tracker)->start());
  EXPECT_TRUE(tracker_for(guest)->start());
}

}  // namespace
}  // namespace migrate
