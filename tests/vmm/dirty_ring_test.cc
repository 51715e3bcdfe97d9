// The demo guest on a VM with a dirty ring: its vCPU threads empty full rings themselves, whatever
// else happens to them meanwhile.
#include <algorithm>
#include <cstring>
#include <thread>

#include "adapters/kvm/vmm/migration_hooks.hpp"
#include "tests/vmm/vmm_fixture.hpp"

namespace migrate::vmm {
namespace {

constexpr std::chrono::seconds kPatience{30};

class VmmRing : public VmmTest {
 protected:
  void SetUp() override {
    VmmTest::SetUp();
    if (IsSkipped()) return;
    const auto vmm = make("idle");
    if (KvmDirtyRing::entries_max(vmm->kvm_vm().vm_fd) == 0) {
      GTEST_SKIP() << "this KVM has no dirty ring (KVM_CAP_DIRTY_LOG_RING)";
    }
  }

  static VmmConfig ring_config(std::string_view workload, std::uint64_t memory_bytes,
                               std::uint32_t vcpus) {
    VmmConfig config;
    config.name = "test";
    config.memory_bytes = memory_bytes;
    config.vcpus = vcpus;
    config.workload = parse_workload(workload).value();
    config.tracking = TrackerKind::kKvmRing;
    return config;
  }
  static std::unique_ptr<Vmm> make_ring(std::string_view workload, std::uint64_t memory_bytes,
                                        std::uint32_t vcpus) {
    auto vmm = Vmm::create(ring_config(workload, memory_bytes, vcpus));
    if (!vmm) throw std::runtime_error(vmm.error().to_text());
    return *std::move(vmm);
  }
  static std::unique_ptr<DirtyTracker> tracker_of(const Vmm& vmm) {
    const KvmVm& vm = vmm.kvm_vm();
    auto tracker = make_kvm_ring_tracker(vm.dirty_ring, vm.slots);
    if (!tracker) throw std::runtime_error(tracker.error().to_text());
    return *std::move(tracker);
  }
  static std::vector<Region> regions_of(const Vmm& vmm) {
    std::vector<Region> regions;
    for (const KvmMemorySlot& slot : vmm.kvm_vm().slots) regions.push_back(region_of(slot));
    return regions;
  }
};

/// All of a guest's memory, slot by slot.
class Copy {
 public:
  explicit Copy(const Vmm& vmm) : slots_(vmm.kvm_vm().slots) {
    for (const KvmMemorySlot& slot : slots_) {
      bytes_.emplace_back(slot.host, slot.host + slot.bytes);
    }
  }
  void read(const PageBitmap& set) {
    set.for_each_run([&](const RegionId& region, PageRange run) {
      for (std::size_t i = 0; i < slots_.size(); ++i) {
        if (slots_[i].slot != region.id) continue;
        const std::uint64_t offset = run.first.number * kPageSize - slots_[i].guest_address.value;
        std::memcpy(bytes_[i].data() + offset, slots_[i].host + offset, run.bytes());
      }
    });
  }
  [[nodiscard]] bool equal() const {
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      if (std::memcmp(bytes_[i].data(), slots_[i].host, slots_[i].bytes) != 0) return false;
    }
    return true;
  }

 private:
  const std::vector<KvmMemorySlot>& slots_;
  std::vector<std::vector<std::byte>> bytes_;
};

TEST_F(VmmRing, CopyOfARunningGuestEqualsItsMemoryOncePaused) {
  const auto vmm = make_ring("writer:rate=max,set=4M+writer:rate=max,set=4M", 16 << 20, 2);
  const auto tracker = tracker_of(*vmm);
  ASSERT_TRUE(tracker->start());
  Copy copy(*vmm);
  resume(*vmm);
  const auto regions = regions_of(*vmm);
  std::uint64_t collects = 0;
  wait_for(*vmm, [&](const GuestStats& stats) {
    PageBitmap set(regions);
    EXPECT_TRUE(tracker->collect(set));
    copy.read(set);
    return ++collects >= 50 && stats.pages_written > 20'000;
  });
  pause(*vmm);
  PageBitmap last(regions);
  ASSERT_TRUE(tracker->collect(last));
  copy.read(last);
  EXPECT_TRUE(copy.equal());
  const auto written = tracker->written_by_vcpu();
  ASSERT_EQ(written.size(), 2U);
  EXPECT_GT(std::min(written[0], written[1]), 1000U) << "both write";
  resume(*vmm);
  const auto before = stats_of(*vmm);
  wait_for(*vmm, [&](const GuestStats& s) { return s.verify_passes >= before.verify_passes + 2; });
  EXPECT_EQ(stats_of(*vmm).verify_errors, 0U);
}

// More memory than a ring has entries for: the guest leaves by full rings alone, and is paused,
// throttled and stopped on the way.
TEST_F(VmmRing, FullRingsAreEmptiedByTheGuestsOwnThreadsWhileItIsPausedAndStopped) {
  const auto vmm = make_ring("writer:rate=max,set=288M", 320 << 20, 1);
  const auto tracker = tracker_of(*vmm);
  ASSERT_TRUE(tracker->start());
  resume(*vmm);
  const KvmDirtyRing& ring = *vmm->kvm_vm().dirty_ring;
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (ring.full_exits() == 0) {
    // Pausing comes at any point of filling a ring.
    pause(*vmm);
    resume(*vmm);
    ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "no ring gets full";
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ASSERT_TRUE(vmm->throttle(0, 0.5));
  const std::uint64_t written = stats_of(*vmm).pages_written;
  wait_for(*vmm, [&](const GuestStats& stats) { return stats.pages_written > written + 1000; });
  PageBitmap set(regions_of(*vmm));
  ASSERT_TRUE(tracker->collect(set));
  EXPECT_GT(set.count(), KvmDirtyRing::kEntriesDefault / 2);
  vmm->stop();
  EXPECT_EQ(vmm->state(), VmmState::kStopped);
  EXPECT_TRUE(tracker->stop());
}

TEST_F(VmmRing, TheChoiceIsTheHostsAndDoesNotTravel) {
  const auto vmm = make_ring("counter", 16 << 20, 1);
  const auto machine = encode_machine(vmm->config()).front();
  VmmConfig plain = vmm->config();
  plain.tracking.reset();
  EXPECT_EQ(machine.body, encode_machine(plain).front().body);
  GuestDescription description;
  description.name = "test";
  description.properties.push_back(machine);
  const auto decoded = decode_machine(description);
  ASSERT_TRUE(decoded);
  EXPECT_FALSE(decoded->tracking);
}

TEST_F(VmmRing, ATargetHasARingWhenItsHostWantsOne) {
  const auto config = ring_config("counter", 16 << 20, 1);
  const VmmPlatform platform;
  const auto with = Vmm::create_incoming(config, platform);
  ASSERT_TRUE(with) << with.error().to_text();
  EXPECT_NE((*with)->kvm_vm().dirty_ring, nullptr);
  VmmConfig plain = config;
  plain.tracking = TrackerKind::kKvmBitmap;
  const auto without = Vmm::create_incoming(plain, platform);
  ASSERT_TRUE(without);
  EXPECT_EQ((*without)->kvm_vm().dirty_ring, nullptr);
}

}  // namespace
}  // namespace migrate::vmm
