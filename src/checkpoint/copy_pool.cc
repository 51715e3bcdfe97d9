#include "checkpoint/copy_pool.hpp"

#include <sys/mman.h>

#include <cerrno>

#include "migrate/memory.hpp"

namespace migrate::checkpoint {

Result<std::unique_ptr<CopyPool>> CopyPool::create(std::uint64_t pages, std::uint64_t count) {
  MIGRATE_CHECK(pages > 0 && pages <= PageCopy::kPagesMax && count > 0);
  const std::size_t bytes = pages * count * kPageSize;
  // Not from the heap: what was never needed never takes memory, and all goes back in the end.
  void* const memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return make_errno_error(ErrorCode::kNoMemory, errno,
                            "no memory for copies of pages that the guest writes");
  }
  return std::unique_ptr<CopyPool>(new CopyPool(static_cast<std::byte*>(memory), bytes, count));
}

CopyPool::CopyPool(std::byte* memory, std::size_t bytes, std::uint64_t count)
    : memory_(memory), bytes_(bytes), copies_(count), queue_(count) {
  free_.reserve(count);
  for (std::uint64_t i = count; i-- > 0;) {
    copies_[i].bytes = memory + i * (bytes / count);
    free_.push_back(&copies_[i]);
  }
}

CopyPool::~CopyPool() { ::munmap(memory_, bytes_); }

PageCopy* CopyPool::acquire() {
  const MutexLock lock(mutex_);
  while (free_.empty() && !closed_) room_.wait(mutex_);
  if (closed_) return nullptr;
  ++filling_;
  PageCopy* const copy = free_.back();
  free_.pop_back();
  copy->pages = {};
  return copy;
}

void CopyPool::queue(PageCopy* copy) {
  const MutexLock lock(mutex_);
  --filling_;
  queue_[(head_ + count_++) % queue_.size()] = copy;
  // All: those that wait for the last one learn that it is there, or that there will be none.
  queued_.notify_all();
}

void CopyPool::give_back(PageCopy* copy) {
  const MutexLock lock(mutex_);
  --filling_;
  free_.push_back(copy);
  room_.notify_one();
  queued_.notify_all();
}

PageCopy* CopyPool::pop() {
  if (count_ == 0) return nullptr;
  PageCopy* const copy = queue_[head_];
  head_ = (head_ + 1) % queue_.size();
  --count_;
  return copy;
}

PageCopy* CopyPool::take() {
  const MutexLock lock(mutex_);
  return pop();
}

PageCopy* CopyPool::take_last() {
  const MutexLock lock(mutex_);
  while (count_ == 0 && filling_ > 0 && !closed_) queued_.wait(mutex_);
  return closed_ ? nullptr : pop();
}

void CopyPool::release(PageCopy* copy) {
  const MutexLock lock(mutex_);
  free_.push_back(copy);
  room_.notify_one();
}

void CopyPool::close() noexcept {
  const MutexLock lock(mutex_);
  closed_ = true;
  room_.notify_all();
  queued_.notify_all();
}

}  // namespace migrate::checkpoint
