// Enabling KVM's dirty ring, and the tracker over it; the rings themselves are in vm_rings.
#include "migrate/kvm_dirty_ring.hpp"

#include <sys/ioctl.h>

#include <bit>
#include <cerrno>
#include <string>
#include <utility>

#include "dirtylog/kvm_dirty_log.hpp"
#include "dirtylog/vm_rings.hpp"

namespace migrate {
namespace {

// Of linux/kvm.h from Linux 6.2 on (Documentation/virt/kvm/api.rst, 8.29).
constexpr int kCapDirtyLogRingWithBitmap = 227;

struct RingCapability {
  std::uint32_t number = 0;
  std::uint32_t bytes_max = 0;  ///< 0: there is none.
};

/// The variant with acquire and release semantics where there is one: the older one is only offered
/// where the processor orders stores anyway.
RingCapability ring_capability(int vm_fd) {
  for (const std::uint32_t number : {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING}) {
    const int bytes = ::ioctl(vm_fd, KVM_CHECK_EXTENSION, number);
    if (bytes > 0) return {number, static_cast<std::uint32_t>(bytes)};
  }
  return {};
}

Status enable_capability(int vm_fd, std::uint32_t number, std::uint64_t argument) {
  kvm_enable_cap request{};
  request.cap = number;
  request.args[0] = argument;
  if (::ioctl(vm_fd, KVM_ENABLE_CAP, &request) == 0) return {};
  if (errno == EINVAL || errno == EEXIST) {
    return make_errno_error(ErrorCode::kBusy, errno,
                            "the dirty ring cannot be enabled on a VM that has vCPUs, memory slots "
                            "or a ring already")
        .advise("enable it once, right after KVM_CREATE_VM");
  }
  return make_errno_error(ErrorCode::kIo, errno, "KVM refuses to enable its dirty ring");
}

class KvmRingTracker final : public DirtyTracker {
 public:
  KvmRingTracker(std::shared_ptr<VmRings> rings, std::span<const KvmMemorySlot> slots)
      : rings_(std::move(rings)), log_(rings_->vm_fd()), slots_(slots.begin(), slots.end()) {}
  ~KvmRingTracker() override { (void)stop(); }
  KvmRingTracker(const KvmRingTracker&) = delete;
  KvmRingTracker& operator=(const KvmRingTracker&) = delete;

  [[nodiscard]] std::string_view name() const override { return "kvm-ring"; }
  [[nodiscard]] DirtyCoverage covers() const override { return {.guest_cpu = true, .kvm = true}; }
  [[nodiscard]] bool rearms_in_collect() const override { return true; }

  Status start() override;
  Status collect(PageBitmap& round_set) override {
    MIGRATE_TRY(check_started());
    MIGRATE_TRY(rings_->take(round_set));
    written_ = rings_->written();
    return {};
  }
  Status rearm(const PageBitmap&, const RegionId&, PageRange) override { return {}; }
  Status peek(PageBitmap& again) override {
    MIGRATE_TRY(check_started());
    MIGRATE_TRY(rings_->look(again));
    written_ = rings_->written();
    return {};
  }
  [[nodiscard]] std::vector<std::uint64_t> written_by_vcpu() const override { return written_; }
  Status stop() override;

 private:
  Status start_logs();
  [[nodiscard]] Status check_started() const {
    if (started_) return {};
    return make_error(ErrorCode::kInvalidArgument, "collect from a tracker that was not started");
  }

  const std::shared_ptr<VmRings> rings_;
  KvmDirtyLog log_;
  const std::vector<KvmMemorySlot> slots_;
  std::size_t logging_ = 0;  ///< Slots, from the first on.
  bool started_ = false;
  std::vector<std::uint64_t> written_;
};

Status KvmRingTracker::start() {
  MIGRATE_TRY(rings_->begin(slots_));
  started_ = true;
  written_.assign(rings_->vcpus(), 0);
  if (Status logs = start_logs(); !logs) {
    (void)stop();
    return logs;
  }
  return {};
}

Status KvmRingTracker::start_logs() {
  // Where pages count as dirty at first without being protected, writes to them make no entries.
  if (log_.manual_protect().offered) MIGRATE_TRY(log_.enable_manual_protect(false, false));
  for (; logging_ < slots_.size(); ++logging_) {
    MIGRATE_TRY(log_.set_logging(slots_[logging_], true));
  }
  return {};
}

Status KvmRingTracker::stop() {
  if (!std::exchange(started_, false)) return {};
  Status result;
  for (; logging_ > 0; --logging_) {
    Status stopped = log_.set_logging(slots_[logging_ - 1], false);
    if (!stopped && result) result = std::move(stopped);
  }
  Status ended = rings_->end();
  return result ? ended : result;
}

}  // namespace

std::uint32_t KvmDirtyRing::entries_max(int vm_fd) {
  return ring_capability(vm_fd).bytes_max / static_cast<std::uint32_t>(sizeof(kvm_dirty_gfn));
}

Result<std::shared_ptr<KvmDirtyRing>> KvmDirtyRing::enable(int vm_fd, std::uint32_t entries) {
  const RingCapability offered = ring_capability(vm_fd);
  if (offered.bytes_max == 0) {
    return make_error(ErrorCode::kUnsupported,
                      "KVM has no dirty ring here (KVM_CAP_DIRTY_LOG_RING)")
        .advise("use the bitmap, or a kernel of version 5.11 or newer");
  }
  const std::uint32_t most = entries_max(vm_fd);
  if (!std::has_single_bit(entries) || entries < kEntriesMin || entries > most) {
    return make_error(ErrorCode::kInvalidArgument,
                      "a dirty ring cannot have " + std::to_string(entries) + " entries")
        .advise("give a power of two from " + std::to_string(kEntriesMin) + " to " +
                std::to_string(most));
  }
  MIGRATE_TRY(enable_capability(vm_fd, offered.number, entries * sizeof(kvm_dirty_gfn)));
  // Offered by architectures whose KVM writes memory while no vCPU runs.
  const bool backup = ::ioctl(vm_fd, KVM_CHECK_EXTENSION, kCapDirtyLogRingWithBitmap) > 0;
  if (backup) MIGRATE_TRY(enable_capability(vm_fd, kCapDirtyLogRingWithBitmap, 0));
  return std::shared_ptr<KvmDirtyRing>(std::make_shared<VmRings>(vm_fd, entries, backup));
}

Result<std::unique_ptr<DirtyTracker>> make_kvm_ring_tracker(std::shared_ptr<KvmDirtyRing> ring,
                                                            std::span<const KvmMemorySlot> slots) {
  MIGRATE_TRY(check_slots(slots));
  auto rings = std::dynamic_pointer_cast<VmRings>(std::move(ring));
  if (rings == nullptr || rings->vcpus() == 0) {
    return make_error(ErrorCode::kInvalidArgument,
                      "the dirty ring given has no vCPU, so it sees no writes")
        .advise("call KvmDirtyRing::add_vcpu() for each vCPU when it is made");
  }
  return std::unique_ptr<DirtyTracker>(std::make_unique<KvmRingTracker>(std::move(rings), slots));
}

}  // namespace migrate
