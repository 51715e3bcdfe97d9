// CopyPool: pages that were copied because the guest was about to write them, on their way from the
// fault threads to the lanes. Its memory is bounded: who finds no room waits.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/mutex.hpp"
#include "migrate/result.hpp"

namespace migrate::checkpoint {

/// Pages of one region that lie close together.
struct PageCopy {
  static constexpr std::uint64_t kPagesMax = 512;
  std::uint16_t region = 0;
  std::uint64_t first = 0;                            ///< The page at bytes[0].
  std::array<std::uint64_t, kPagesMax / 64> pages{};  ///< Which of those from `first` on are there.
  std::byte* bytes = nullptr;
};

/// Any thread.
class CopyPool {
 public:
  /// `count` copies of up to `pages` pages each. kNoMemory.
  static Result<std::unique_ptr<CopyPool>> create(std::uint64_t pages, std::uint64_t count);
  ~CopyPool();
  CopyPool(const CopyPool&) = delete;
  CopyPool& operator=(const CopyPool&) = delete;

  /// Waits for room; nullptr once close() was called. What is had ends in queue() or give_back().
  PageCopy* acquire() MIGRATE_EXCLUDES(mutex_);
  /// It holds pages now.
  void queue(PageCopy* copy) MIGRATE_EXCLUDES(mutex_);
  /// Nothing was copied to it.
  void give_back(PageCopy* copy) MIGRATE_EXCLUDES(mutex_);

  /// The oldest that holds pages; nullptr when there is none. Ends in release().
  PageCopy* take() MIGRATE_EXCLUDES(mutex_);
  /// The same, but waits as long as somebody is about to queue one; nullptr once close() was
  /// called.
  PageCopy* take_last() MIGRATE_EXCLUDES(mutex_);
  void release(PageCopy* copy) MIGRATE_EXCLUDES(mutex_);

  /// Ends all waiting, for good.
  void close() noexcept MIGRATE_EXCLUDES(mutex_);

 private:
  CopyPool(std::byte* memory, std::size_t bytes, std::uint64_t count);
  PageCopy* pop() MIGRATE_REQUIRES(mutex_);

  std::byte* const memory_;
  const std::size_t bytes_;
  std::vector<PageCopy> copies_;
  Mutex mutex_;
  CondVar room_, queued_;
  std::vector<PageCopy*> free_ MIGRATE_GUARDED_BY(mutex_);
  std::vector<PageCopy*> queue_ MIGRATE_GUARDED_BY(mutex_);  ///< A ring of all copies.
  std::size_t head_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::size_t count_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::size_t filling_ MIGRATE_GUARDED_BY(mutex_) = 0;
  bool closed_ MIGRATE_GUARDED_BY(mutex_) = false;
};

}  // namespace migrate::checkpoint
