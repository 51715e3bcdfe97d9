#include "dirtylog/vm_rings.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "dirtylog/kvm_dirty_log.hpp"

namespace migrate {
namespace {

// A reset that is interrupted goes on where it stopped. Signals that cannot be blocked do not come
// in such numbers.
constexpr int kResetAttemptsMax = 1000;

/// Blocks all signals of the calling thread for a scope.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

}  // namespace

Status VmRings::add_vcpu(int vcpu_fd) {
  MIGRATE_ASSIGN(VcpuRing ring, VcpuRing::map(vcpu_fd, entries_));
  MutexLock lock(mutex_);
  vcpus_.push_back({std::move(ring), 0});
  return {};
}

Status VmRings::on_ring_full(std::uint32_t vcpu) {
  full_exits_.fetch_add(1, std::memory_order_relaxed);
  MutexLock lock(mutex_);
  if (vcpu >= vcpus_.size()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "the dirty ring of vCPU " + std::to_string(vcpu) + " is full, but only " +
                          std::to_string(vcpus_.size()) + " vCPUs were added");
  }
  harvest(vcpus_[vcpu]);
  return reset();
}

std::size_t VmRings::vcpus() const {
  MutexLock lock(mutex_);
  return vcpus_.size();
}

Status VmRings::begin(std::span<const KvmMemorySlot> slots) {
  MutexLock lock(mutex_);
  if (tracked_) {
    return make_error(ErrorCode::kBusy, "another tracker uses the dirty ring of this guest")
        .advise("stop it first");
  }
  harvest_all();
  MIGRATE_TRY(reset());
  std::size_t longest = 0;
  for (const KvmMemorySlot& slot : slots) {
    const Region region = region_of(slot);
    slots_.push_back({slot, region, PageMarks(region.range.count), PageMarks()});
    longest = std::max<std::size_t>(longest, (region.range.count + 63) / 64);
  }
  std::sort(slots_.begin(), slots_.end(),
            [](const Slot& a, const Slot& b) { return a.slot.slot < b.slot.slot; });
  if (backup_bitmap_) scratch_.resize(longest);
  for (Vcpu& vcpu : vcpus_) vcpu.written = 0;
  tracked_ = true;
  return {};
}

VmRings::Slot* VmRings::find(std::span<Slot> slots, std::uint32_t number) {
  const auto found =
      std::lower_bound(slots.begin(), slots.end(), number,
                       [](const Slot& slot, std::uint32_t n) { return slot.slot.slot < n; });
  return found != slots.end() && found->slot.slot == number ? &*found : nullptr;
}

/// Entries of slots nobody asked for are dropped, as is all while no tracker runs. Another address
/// space (SMM) has other slots: it stands in the number's upper half.
void VmRings::harvest(Vcpu& vcpu) {
  const std::span<Slot> slots(slots_);
  Slot* slot = nullptr;
  outstanding_ += vcpu.ring.harvest([&](std::uint32_t number, std::uint64_t page) {
    if (slot == nullptr || slot->slot.slot != number) slot = find(slots, number);
    // The ring is shared memory: nothing in it is taken for granted.
    if (slot == nullptr || page >= slot->region.range.count) return;
    slot->written.add(page);
    ++vcpu.written;
  });
}

void VmRings::harvest_all() {
  for (Vcpu& vcpu : vcpus_) harvest(vcpu);
}

/// Re-arms what was harvested. Linux from 6.16 on looks for signals at each entry, and when there
/// is one leaves at once: with the entries it has already taken off but not re-armed yet, up to 64
/// pages (kvm_dirty_ring_reset: what it has gathered in `mask` is dropped). Writes to those are
/// never logged again. So signals are blocked; against what cannot be blocked (a stop, a debugger,
/// the freezer) all pages that may be among them are handed out again and again.
Status VmRings::reset() {
  if (outstanding_ == 0) return {};
  const SignalsBlocked blocked;
  for (int attempt = 0; attempt < kResetAttemptsMax; ++attempt) {
    const int done = ::ioctl(vm_fd_, KVM_RESET_DIRTY_RINGS, 0);
    if (done < 0 && errno != EINTR) {
      return make_errno_error(ErrorCode::kIo, errno, "KVM cannot re-arm pages of its dirty rings");
    }
    outstanding_ -= std::min<std::uint64_t>(outstanding_, static_cast<unsigned>(std::max(done, 0)));
    if (outstanding_ == 0) return {};
    doubt();
  }
  return make_error(ErrorCode::kIo, "KVM left " + std::to_string(outstanding_) +
                                        " entries of its dirty rings without re-arming them")
      .advise("look for another program that uses this VM's rings");
}

void VmRings::doubt() {
  for (Slot& slot : slots_) {
    if (slot.doubted.empty()) slot.doubted = PageMarks(slot.region.range.count);
    slot.written.for_each_word(
        [&](std::size_t word, std::uint64_t bits) { slot.doubted.add_word(word, bits); });
  }
}

Status VmRings::drain_backup() {
  if (!backup_bitmap_) return {};
  KvmDirtyLog log(vm_fd_);
  for (Slot& slot : slots_) {
    const std::uint64_t pages = slot.region.range.count;
    const std::span<std::uint64_t> words{scratch_.data(), (pages + 63) / 64};
    if (Status got = log.get(slot.slot, words); !got) {
      // KVM may have taken the bits already.
      for (std::uint64_t page = 0; page < pages; ++page) slot.written.add(page);
      return got;
    }
    for (std::size_t word = 0; word < words.size(); ++word) {
      if (words[word] != 0) slot.written.add_word(word, words[word]);
    }
  }
  return {};
}

Status VmRings::take(PageBitmap& round_set) {
  MutexLock lock(mutex_);
  harvest_all();
  MIGRATE_TRY(reset());
  MIGRATE_TRY(drain_backup());
  for (Slot& slot : slots_) {
    PageBitmap::Segment* segment = round_set.find(slot.region.id);
    if (segment == nullptr) continue;
    MIGRATE_CHECK(segment->region.range == slot.region.range);
    const auto hand_out = [&](std::size_t word, std::uint64_t bits) {
      segment->words[word] |= bits;
    };
    slot.written.for_each_word(hand_out);
    slot.doubted.for_each_word(hand_out);
    slot.written.clear();
  }
  return {};
}

Status VmRings::look(PageBitmap& again) {
  MutexLock lock(mutex_);
  harvest_all();
  MIGRATE_TRY(drain_backup());
  for (const Slot& slot : slots_) {
    PageBitmap::Segment* segment = again.find(slot.region.id);
    if (segment == nullptr) continue;
    MIGRATE_CHECK(segment->region.range == slot.region.range);
    slot.written.for_each_word(
        [&](std::size_t word, std::uint64_t bits) { segment->words[word] |= bits; });
  }
  return {};
}

std::vector<std::uint64_t> VmRings::written() const {
  MutexLock lock(mutex_);
  std::vector<std::uint64_t> written;
  for (const Vcpu& vcpu : vcpus_) written.push_back(vcpu.written);
  return written;
}

Status VmRings::end() {
  MutexLock lock(mutex_);
  slots_.clear();
  scratch_ = {};
  tracked_ = false;
  harvest_all();
  return reset();
}

}  // namespace migrate
