#include "checkpoint/file_lane.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "checkpoint/partial_file.hpp"
#include "checkpoint/quiet_signal.hpp"

namespace migrate::checkpoint {
namespace {

// What most buffers are asked for: so none is made twice.
constexpr std::size_t kSlotBytes = 1 << 20;

}  // namespace

FileProgress::~FileProgress() {
  for (io_uring& ring : rings_) ::io_uring_queue_exit(&ring);
}

std::optional<io_uring> FileProgress::take_ring() {
  const MutexLock lock(mutex_);
  if (rings_.empty()) return std::nullopt;
  const io_uring ring = rings_.back();
  rings_.pop_back();
  return ring;
}

void FileProgress::keep_ring(const io_uring& ring) {
  const MutexLock lock(mutex_);
  rings_.push_back(ring);
}

void FileProgress::fail(const Error& error) {
  const MutexLock lock(mutex_);
  if (!failure_) failure_ = error;
}

std::optional<Error> FileProgress::failure() const {
  const MutexLock lock(mutex_);
  return failure_;
}

FileLane::FileLane(const LaneFile& file, bool uring) : file_(file), uring_(uring) {}

FileLane::~FileLane() {
  // The kernel still reads from the buffers.
  while (busy_ > 0) static_cast<void>(reap());
  if (!ring_up_) return;
  if (entry_left_) {
    // It would be submitted with the next one's, and names memory that goes now.
    ::io_uring_queue_exit(&ring_);
  } else {
    file_.progress.keep_ring(ring_);
  }
}

void FileLane::set_up_ring() {
  // No flags: the lane may be made, used and dropped by different threads.
  if (const auto ring = file_.progress.take_ring()) {
    ring_ = *ring;
    ring_up_ = true;
    return;
  }
  ring_up_ = ::io_uring_queue_init(kSlots, &ring_, 0) == 0;
  if (!ring_up_) uring_ = false;
}

Status FileLane::check() const {
  if (failure_) return *failure_;
  if (file_.progress.interrupted.load(std::memory_order_relaxed)) {
    return make_error(ErrorCode::kCancelled, "writing " + file_.path + " was cancelled");
  }
  return {};
}

Error FileLane::fail(int sys_errno, const Slot& slot) {
  if (!failure_) {
    failure_ = write_error(file_.path, file_.folder, sys_errno, slot.bytes - slot.done);
    file_.progress.fail(*failure_);
  }
  return *failure_;
}

Result<std::span<std::byte>> FileLane::buffer(std::size_t bytes) {
  MIGRATE_TRY(check());
  // The one that has waited longest is the first to be free.
  latest_ = latest_ + 1 < kSlots ? latest_ + 1 : 0;
  Slot& slot = slots_[latest_];
  while (slot.busy) MIGRATE_TRY(reap());
  MIGRATE_TRY(slot.memory.reserve(std::max(bytes, kSlotBytes)));
  return slot.memory.bytes();
}

Status FileLane::write(std::uint64_t offset, std::size_t bytes) {
  MIGRATE_CHECK(latest_ < kSlots && bytes % kBlockAlign == 0);
  Slot& slot = slots_[latest_];
  MIGRATE_CHECK(!slot.busy && bytes <= slot.memory.bytes().size());
  MIGRATE_TRY(check());
  slot.offset = offset;
  slot.bytes = bytes;
  slot.done = 0;
  if (uring_ && !ring_up_) set_up_ring();
  if (!uring_) return write_here(slot);
  MIGRATE_TRY(submit(slot));
  return {};
}

Status FileLane::flush() {
  while (busy_ > 0) MIGRATE_TRY(reap());
  return check();
}

Status FileLane::write_here(Slot& slot) {
  // A file at its limit (ulimit -f) would end the process.
  const QuietSignal quiet(SIGXFSZ);
  while (true) {
    const ssize_t result =
        file_.calls.pwrite(file_.fd, slot.memory.bytes().data() + slot.done, slot.bytes - slot.done,
                           static_cast<off_t>(slot.offset + slot.done));
    MIGRATE_ASSIGN(const bool all, take(slot, result < 0 ? -errno : result));
    if (all) return {};
  }
}

Status FileLane::submit(Slot& slot) {
  const ssize_t bytes = file_.calls.submit(slot.bytes - slot.done);
  if (bytes < 0) return fail(errno, slot);
  io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
  // As many entries as slots, and each is submitted at once.
  MIGRATE_CHECK(entry != nullptr);
  ::io_uring_prep_write(entry, file_.fd, slot.memory.bytes().data() + slot.done,
                        static_cast<unsigned>(bytes), slot.offset + slot.done);
  ::io_uring_sqe_set_data(entry, &slot);
  slot.busy = true;
  ++busy_;
  // The kernel may write at once, as this thread.
  const QuietSignal quiet(SIGXFSZ);
  while (true) {
    const int submitted = ::io_uring_submit(&ring_);
    if (submitted >= 1) return {};
    if (submitted == -EINTR || submitted == -EAGAIN || submitted == -EBUSY) continue;
    // Not begun: nothing is there that could complete.
    slot.busy = false;
    --busy_;
    entry_left_ = true;
    return fail(submitted < 0 ? -submitted : EIO, slot);
  }
}

Status FileLane::reap() {
  io_uring_cqe* completion = nullptr;
  int waited = 0;
  do {
    waited = ::io_uring_wait_cqe(&ring_, &completion);
  } while (waited == -EINTR || waited == -EAGAIN);
  MIGRATE_CHECK(waited == 0);
  Slot& slot = *static_cast<Slot*>(::io_uring_cqe_get_data(completion));
  const int result = file_.calls.completed(completion->res);
  ::io_uring_cqe_seen(&ring_, completion);
  slot.busy = false;
  --busy_;
  // After a failure the others are only waited for.
  if (failure_) return {};
  MIGRATE_ASSIGN(const bool all, take(slot, result));
  if (all) return {};
  return submit(slot);
}

Result<bool> FileLane::take(Slot& slot, std::int64_t result) {
  if (result == -EINTR || result == -EAGAIN) return false;
  if (result == -EINVAL && file_.direct) {
    // A file system that takes O_DIRECT and then not this write: without it from now on, for all.
    const int flags = ::fcntl(file_.fd, F_GETFL);
    if (flags >= 0 && (flags & O_DIRECT) != 0 &&
        ::fcntl(file_.fd, F_SETFL, flags & ~O_DIRECT) == 0) {
      return false;
    }
  }
  if (result < 0) return fail(static_cast<int>(-result), slot);
  // Nothing written and no reason given: it would be so for ever.
  if (result == 0) return fail(EIO, slot);
  slot.done += static_cast<std::size_t>(result);
  if (slot.done >= slot.bytes) {
    file_.progress.written.fetch_add(slot.bytes, std::memory_order_relaxed);
    return true;
  }
  // O_DIRECT goes on at a multiple only; the same bytes may be written twice.
  slot.done = slot.done / kBlockAlign * kBlockAlign;
  return false;
}

}  // namespace migrate::checkpoint
