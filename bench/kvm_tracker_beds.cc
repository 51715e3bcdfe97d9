// Beds of the trackers that ask KVM.
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "bench/tracked_guest.hpp"
#include "bench/tracker_beds.hpp"
#include "migrate/trackers.hpp"

namespace migrate::bench {
namespace {

// Not in every <linux/kvm.h> yet: Linux 6.1's numbers.
constexpr std::uint32_t kCapRingAcquire = 223;  // KVM_CAP_DIRTY_LOG_RING_ACQ_REL
constexpr std::uint32_t kRingEntryDirty = 1;    // KVM_DIRTY_GFN_F_DIRTY
constexpr std::uint32_t kRingEntryReset = 2;    // KVM_DIRTY_GFN_F_RESET

int must_call(int result, const char* what) {
  if (result < 0) give_up(std::string(what) + ": " + std::strerror(errno));
  return result;
}

std::vector<Region> regions_of(const TrackedGuest& guest) {
  std::vector<Region> regions;
  for (const KvmMemorySlot& slot : guest.slots()) regions.push_back(region_of(slot));
  return regions;
}

void set_logging(const TrackedGuest& guest, bool on) {
  for (const KvmMemorySlot& slot : guest.slots()) {
    kvm_userspace_memory_region region{};
    region.slot = slot.slot;
    region.flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0;
    region.guest_phys_addr = slot.guest_address.value;
    region.memory_size = slot.bytes;
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(slot.host);
    must_call(::ioctl(guest.vm_fd(), KVM_SET_USER_MEMORY_REGION, &region),
              "KVM_SET_USER_MEMORY_REGION");
  }
}

/// A guest's dirty log without anything around it.
class BareLog {
 public:
  explicit BareLog(const TrackedGuest& guest) : guest_(guest), log_(regions_of(guest)) {}

  void get() {
    for (std::size_t i = 0; i < guest_.slots().size(); ++i) {
      kvm_dirty_log log{};
      log.slot = guest_.slots()[i].slot;
      log.dirty_bitmap = log_.segments()[i].words.data();
      must_call(::ioctl(guest_.vm_fd(), KVM_GET_DIRTY_LOG, &log), "KVM_GET_DIRTY_LOG");
    }
  }
  void clear(std::size_t segment, PageRange range) {
    auto& whole = log_.segments()[segment];
    kvm_clear_dirty_log log{};
    log.slot = guest_.slots()[segment].slot;
    log.first_page = range.first - whole.region.range.first;
    log.num_pages = static_cast<std::uint32_t>(range.count);
    log.dirty_bitmap = whole.words.data() + log.first_page / 64;
    must_call(::ioctl(guest_.vm_fd(), KVM_CLEAR_DIRTY_LOG, &log), "KVM_CLEAR_DIRTY_LOG");
  }

 private:
  const TrackedGuest& guest_;
  PageBitmap log_;
};

/// The dirty rings of a guest without anything around them.
class BareRing {
 public:
  /// The size the library takes by default.
  static constexpr std::uint32_t kEntries = KvmDirtyRing::kEntriesDefault;

  static void enable(int vm_fd) {
    kvm_enable_cap cap{};
    cap.cap = kCapRingAcquire;
    cap.args[0] = kEntries * sizeof(kvm_dirty_gfn);
    must_call(::ioctl(vm_fd, KVM_ENABLE_CAP, &cap), "KVM_CAP_DIRTY_LOG_RING_ACQ_REL");
  }
  explicit BareRing(const TrackedGuest& guest) : guest_(guest), log_(regions_of(guest)) {
    for (std::uint32_t id = 0; id < TrackedGuest::kVcpus; ++id) {
      void* ring =
          ::mmap(nullptr, kEntries * sizeof(kvm_dirty_gfn), PROT_READ | PROT_WRITE, MAP_SHARED,
                 guest.vcpu_fd(id), static_cast<off_t>(KVM_DIRTY_LOG_PAGE_OFFSET * kPageSize));
      if (ring == MAP_FAILED) give_up("mmap of a dirty ring");
      rings_.push_back({static_cast<kvm_dirty_gfn*>(ring), 0});
    }
  }
  ~BareRing() {
    for (Ring& ring : rings_) ::munmap(ring.entries, kEntries * sizeof(kvm_dirty_gfn));
  }
  BareRing(const BareRing&) = delete;
  BareRing& operator=(const BareRing&) = delete;

  void collect() {
    log_.clear_all();
    for (std::uint32_t id = 0; id < rings_.size(); ++id) harvest(id);
    reset();
  }
  void on_full(std::uint32_t id) {
    harvest(id);
    reset();
  }

 private:
  struct Ring {
    kvm_dirty_gfn* entries = nullptr;
    std::uint32_t next = 0;
  };

  void harvest(std::uint32_t id) {
    Ring& ring = rings_[id];
    for (;; ++ring.next) {
      kvm_dirty_gfn& entry = ring.entries[ring.next % kEntries];
      const std::atomic_ref<std::uint32_t> flags(entry.flags);
      if ((flags.load(std::memory_order_acquire) & kRingEntryDirty) == 0) return;
      log_.segments()[entry.slot].words[entry.offset / 64] |= std::uint64_t{1}
                                                              << (entry.offset % 64);
      flags.store(kRingEntryReset, std::memory_order_release);
    }
  }
  void reset() {
    must_call(::ioctl(guest_.vm_fd(), KVM_RESET_DIRTY_RINGS, 0), "KVM_RESET_DIRTY_RINGS");
  }

  const TrackedGuest& guest_;
  PageBitmap log_;
  std::vector<Ring> rings_;
};

/// A guest and what writes in it.
class KvmBed : public TrackerBed {
 public:
  KvmBed(std::uint64_t bytes, GuestRing ring)
      : memory_(MemoryKind::kHugePages, bytes), guest_(memory_, ring) {
    (void)guest_.write(1);
  }

  [[nodiscard]] std::string memory() const override { return "KVM guest, huge pages"; }
  [[nodiscard]] DirtyTracker& tracker() override { return *tracker_; }
  [[nodiscard]] std::vector<Region> regions() override { return regions_of(guest_); }
  std::uint64_t write(std::uint64_t step) override { return guest_.write(step); }
  void spin() override { guest_.spin(); }
  double stop_spinning() override { return guest_.stop_spinning(); }

 protected:
  TrackedMemory memory_;
  TrackedGuest guest_;
  std::unique_ptr<DirtyTracker> tracker_;
};

class KvmBitmapBed final : public KvmBed {
 public:
  KvmBitmapBed(std::uint64_t bytes, KvmLogMode mode)
      : KvmBed(bytes, GuestRing::kNone), manual_(mode == KvmLogMode::kManual), log_(guest_) {
    make_tracker(
        [&] { tracker_ = must(make_kvm_bitmap_tracker(guest_.vm_fd(), guest_.slots(), mode)); });
    bare_.name = manual_ ? "KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG" : "KVM_GET_DIRTY_LOG";
    bare_.start = [this] { set_logging(guest_, true); };
    bare_.stop = [this] { set_logging(guest_, false); };
    bare_.collect = [this] { log_.get(); };
    bare_.leaves_log = manual_;
    if (!manual_) return;
    bare_.peek = bare_.collect;
    bare_.clear = [this](std::size_t segment, PageRange range) { log_.clear(segment, range); };
  }
  [[nodiscard]] bool peeks() const override { return manual_; }

 private:
  const bool manual_;
  BareLog log_;
};

class KvmRingBed final : public KvmBed {
 public:
  explicit KvmRingBed(std::uint64_t bytes) : KvmBed(bytes, GuestRing::kLibrary) {
    make_tracker([&] { tracker_ = must(make_kvm_ring_tracker(guest_.ring(), guest_.slots())); });
    bare_.name = "KVM_RESET_DIRTY_RINGS";
    bare_.start = [this] { set_logging(bare_guest_->guest, true); };
    // A new one: KVM keeps the small pages of one that was tracked.
    bare_.stop = [this] { renew(); };
    bare_.collect = [this] { bare_guest_->ring.collect(); };
    bare_.write = [this](std::uint64_t step) { (void)bare_guest_->guest.write(step); };
    renew();
  }

 private:
  /// A second guest on the same memory, since a ring has one reader.
  struct BareGuest {
    explicit BareGuest(const TrackedMemory& memory) : guest(memory, GuestRing::kBare), ring(guest) {
      guest.on_ring_full([this](std::uint32_t id) { ring.on_full(id); });
    }
    TrackedGuest guest;
    BareRing ring;
  };

  void renew() {
    bare_guest_.reset();
    bare_guest_ = std::make_unique<BareGuest>(memory_);
    (void)bare_guest_->guest.write(1);
  }

  std::unique_ptr<BareGuest> bare_guest_;
};

std::unique_ptr<TrackerBed> make_bitmap_bed(std::uint64_t bytes, KvmLogMode mode,
                                            std::string& why_not) {
  if (!TrackedGuest::available()) {
    why_not = "/dev/kvm does not open";
    return nullptr;
  }
  return std::make_unique<KvmBitmapBed>(bytes, mode);
}

}  // namespace

void enable_bare_ring(int vm_fd) { BareRing::enable(vm_fd); }

std::vector<BedMaker> kvm_bed_makers() {
  return {
      {"KVM bitmap, manual",
       [](std::uint64_t bytes, std::string& why_not) {
         return make_bitmap_bed(bytes, KvmLogMode::kManual, why_not);
       }},
      {"KVM bitmap, plain",
       [](std::uint64_t bytes, std::string& why_not) {
         return make_bitmap_bed(bytes, KvmLogMode::kPlain, why_not);
       }},
      {"KVM ring",
       [](std::uint64_t bytes, std::string& why_not) -> std::unique_ptr<TrackerBed> {
         if (!TrackedGuest::available() || !TrackedGuest::has_rings()) {
           why_not = "no /dev/kvm with dirty rings";
           return nullptr;
         }
         return std::make_unique<KvmRingBed>(bytes);
       }},
  };
}

}  // namespace migrate::bench
