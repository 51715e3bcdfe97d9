#include "tests/dirtylog/contract/kvm_beds.hpp"

#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "tests/dirtylog/contract/mapped_bed.hpp"
#include "tests/kvm/tiny_guest.hpp"

namespace migrate::testing {
namespace {

/// The first slot holds the guest's program, stack and page tables, and is no area.
constexpr std::uint64_t kProgramPages = 64;
constexpr std::uint64_t kProgramAddress = 0x1000;
constexpr std::uint32_t kVcpus = 2;

struct GuestKind {
  bool anonymous = false;
  std::uint32_t ring_entries = 0;
};

TinyGuestOptions guest_options(std::span<const std::uint64_t> area_pages, GuestKind kind) {
  TinyGuestOptions options;
  options.anonymous = kind.anonymous;
  options.ring_entries = kind.ring_entries;
  options.vcpus = kVcpus;
  options.slot_pages = {kProgramPages};
  options.slot_pages.insert(options.slot_pages.end(), area_pages.begin(), area_pages.end());
  options.sweep_first = kProgramPages;
  options.sweep_pages = std::accumulate(area_pages.begin(), area_pages.end(), std::uint64_t{0});
  return options;
}

/// Has a vCPU sweep over each `stride`th of `pages`. The guest is paused.
void aim(const TinyGuest& guest, std::uint32_t vcpu, PageRange pages, std::uint64_t stride = 1) {
  const int fd = guest.vm().vcpu_fds[vcpu];
  kvm_regs registers{};
  if (::ioctl(fd, KVM_GET_REGS, &registers) != 0) throw std::runtime_error("KVM_GET_REGS");
  registers.rip = kProgramAddress;
  registers.rbx = pages.first.number * kPageSize;
  registers.rcx = (pages.count + stride - 1) / stride;
  registers.r9 = stride * kPageSize;
  if (::ioctl(fd, KVM_SET_REGS, &registers) != 0) throw std::runtime_error("KVM_SET_REGS");
}

/// The share of the areas that a vCPU sweeps over when it runs at full speed.
PageRange share_of(const TinyGuest& guest, std::uint32_t vcpu) {
  const std::uint64_t all = guest.options().sweep_pages;
  const std::uint64_t each = std::max<std::uint64_t>(1, all / kVcpus);
  const std::uint64_t first = vcpu * each % all;
  const bool last = vcpu + 1 == kVcpus;
  return {{kProgramPages + first}, last ? all - first : each};
}

class VcpuWriter final : public Writer {
 public:
  explicit VcpuWriter(TinyGuest& guest) : guest_(guest) {}
  [[nodiscard]] std::string_view name() const override { return "vCPUs"; }
  void resume() override { guest_.resume(); }
  void pause() override { guest_.pause(); }
  [[nodiscard]] std::uint64_t writes() const override {
    std::uint64_t sweeps = 0;
    for (std::uint32_t vcpu = 0; vcpu < kVcpus; ++vcpu) sweeps += guest_.sweeps(vcpu);
    return sweeps;
  }

 private:
  TinyGuest& guest_;
};

std::vector<MappedRegion> mapped_slots(const TinyGuest& guest) {
  std::vector<MappedRegion> regions;
  for (const KvmMemorySlot& slot : guest.slots()) regions.push_back(mapped_region_of(slot));
  return regions;
}

class KvmBed final : public MappedBed {
 public:
  explicit KvmBed(std::unique_ptr<TinyGuest> guest)
      : MappedBed(mapped_slots(*guest), 1), guest_(std::move(guest)) {
    for (std::uint32_t vcpu = 0; vcpu < kVcpus; ++vcpu) aim(*guest_, vcpu, share_of(*guest_, vcpu));
    writers_.push_back(std::make_unique<VcpuWriter>(*guest_));
  }
  ~KvmBed() override {
    // Both need the guest, which goes before the base class does.
    writers_.clear();
    tracker_.reset();
  }
  KvmBed(const KvmBed&) = delete;
  KvmBed& operator=(const KvmBed&) = delete;

  [[nodiscard]] TinyGuest& guest() { return *guest_; }
  /// The tracker sees what this process writes, too.
  void see_own_writes() { own_writes_seen_ = true; }

  using TrackerBed::touch;
  void touch(PageRange pages, std::uint64_t stride) override {
    for (std::uint32_t vcpu = 0; vcpu < kVcpus; ++vcpu) aim(*guest_, vcpu, pages, stride);
    guest_->resume();
    guest_->wait_for_sweeps(1);
    guest_->pause();
    sweeps_all_ = false;
  }
  void put(PageRange pages, std::uint64_t value) override {
    if (own_writes_seen_) return MappedBed::put(pages, value);
    touch(pages, 1);
  }
  void for_each_logged(PageRange pages,
                       const std::function<void(const LoggedWord&)>& f) const override {
    MappedBed::for_each_logged(pages, f);
    if (!sweeps_all_) return;
    for (std::uint32_t vcpu = 0; vcpu < kVcpus; ++vcpu) {
      const std::uint64_t sweeps = guest_->sweeps(vcpu);
      const PageRange share = share_of(*guest_, vcpu);
      for (GuestPage page = std::max(pages.first, share.first);
           page < std::min(pages.end(), share.end()); page = page + 1) {
        f({page, 0, sweeps});
      }
    }
  }

 private:
  std::unique_ptr<TinyGuest> guest_;
  bool own_writes_seen_ = false;
  bool sweeps_all_ = true;  ///< Each vCPU has swept over its share only.
};

using Tracking = Status (*)(KvmBed& bed, std::uint64_t seed);

BedKind kind_of(const char* name, GuestKind guest, Tracking track) {
  return {name, [=](std::span<const std::uint64_t> area_pages, std::uint64_t seed) -> MadeBed {
            std::string why_not;
            if (!kvm_usable(why_not)) return {nullptr, why_not};
            auto bed = std::make_unique<KvmBed>(
                std::make_unique<TinyGuest>(guest_options(area_pages, guest)));
            if (Status tracked = track(*bed, seed); !tracked) {
              return {nullptr, tracked.error().to_text()};
            }
            return {std::move(bed), ""};
          }};
}

Status track_by_log(KvmBed& bed, KvmLogMode mode) {
  const KvmVm vm = bed.guest().vm();
  MIGRATE_ASSIGN(auto tracker, make_kvm_bitmap_tracker(vm.vm_fd, vm.slots, mode));
  bed.track_with(std::move(tracker));
  return {};
}

Status track_by_manual_log(KvmBed& bed, std::uint64_t) {
  return track_by_log(bed, KvmLogMode::kManual);
}

Status track_by_plain_log(KvmBed& bed, std::uint64_t) {
  return track_by_log(bed, KvmLogMode::kPlain);
}

/// Marks beside what the bed has already.
void join_marks(KvmBed& bed, std::uint64_t seed) {
  bed.wrap_tracker([&](std::shared_ptr<DirtyTracker> log) -> std::shared_ptr<DirtyTracker> {
    return make_composite_tracker({std::move(log), bed.mark_own_writes()});
  });
  bed.see_own_writes();
  bed.add_thread_writers(seed);
}

Status track_by_manual_log_and_marks(KvmBed& bed, std::uint64_t seed) {
  MIGRATE_TRY(track_by_log(bed, KvmLogMode::kManual));
  join_marks(bed, seed);
  return {};
}

Status track_by_plain_log_and_marks(KvmBed& bed, std::uint64_t seed) {
  MIGRATE_TRY(track_by_log(bed, KvmLogMode::kPlain));
  join_marks(bed, seed);
  return {};
}

Status track_by_content(KvmBed& bed, std::uint64_t seed) {
  bed.track_by_content();
  bed.see_own_writes();
  bed.add_thread_writers(seed);
  return {};
}

Status track_by_ring(KvmBed& bed, std::uint64_t) {
  MIGRATE_ASSIGN(auto tracker, make_kvm_ring_tracker(bed.guest().ring(), bed.guest().slots()));
  bed.track_with(std::move(tracker));
  return {};
}

Status track_by_ring_and_marks(KvmBed& bed, std::uint64_t seed) {
  MIGRATE_TRY(track_by_ring(bed, seed));
  join_marks(bed, seed);
  return {};
}

Status track_by_write_protection(KvmBed& bed, std::uint64_t seed) {
  const std::vector<MappedRegion> regions = mapped_slots(bed.guest());
  for (const MappedRegion& mapped : regions) {
    ::madvise(mapped.address, mapped.region.range.bytes(), MADV_NOHUGEPAGE);
  }
  MIGRATE_ASSIGN(auto tracker, make_write_protect_tracker(regions));
  bed.track_with(std::move(tracker));
  bed.see_own_writes();
  bed.add_thread_writers(seed);
  return {};
}

}  // namespace

std::vector<BedKind> kvm_bed_kinds() {
  return {
      kind_of("KvmManual", {}, track_by_manual_log),
      kind_of("KvmPlain", {.anonymous = true}, track_by_plain_log),
      kind_of("KvmManualAndMarks", {}, track_by_manual_log_and_marks),
      kind_of("KvmPlainAndMarks", {}, track_by_plain_log_and_marks),
      kind_of("KvmRing", {.ring_entries = KvmDirtyRing::kEntriesMin}, track_by_ring),
      kind_of("KvmRingAndMarks", {.ring_entries = KvmDirtyRing::kEntriesMin},
              track_by_ring_and_marks),
      kind_of("ContentHashUnderKvm", {}, track_by_content),
      kind_of("WriteProtectUnderKvm", {}, track_by_write_protection),
      kind_of("WriteProtectUnderKvmAnonymous", {.anonymous = true}, track_by_write_protection),
  };
}

}  // namespace migrate::testing
