// BoundedQueue: hands items from threads to threads; a full queue holds the producers back.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "base/mutex.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// First in, first out. Any thread may call any method. Memory for `capacity` items is taken once.
///
/// Ends in one of two ways: close() lets the consumers take what is there, cancel() drops it.
template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(std::size_t capacity) : slots_(capacity) { MIGRATE_CHECK(capacity > 0); }
  BoundedQueue(const BoundedQueue&) = delete;
  BoundedQueue& operator=(const BoundedQueue&) = delete;

  /// Waits for room. False after close() or cancel(): the item is dropped.
  [[nodiscard]] bool push(T item) MIGRATE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (count_ == slots_.size() && !closed_) room_.wait(mutex_);
    if (closed_) return false;
    put(std::move(item));
    return true;
  }

  /// As push(), and false at `deadline`: finished() tells which. Then it stays in `item`.
  [[nodiscard]] bool push_until(T& item, std::chrono::steady_clock::time_point deadline)
      MIGRATE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (count_ == slots_.size() && !closed_) {
      if (!room_.wait_until(mutex_, deadline)) break;
    }
    if (closed_ || count_ == slots_.size()) return false;
    put(std::move(item));
    return true;
  }

  /// Puts the item in if there is room now; else it stays in `item`.
  [[nodiscard]] bool try_push(T& item) MIGRATE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (closed_ || count_ == slots_.size()) return false;
    put(std::move(item));
    return true;
  }

  /// Waits for an item; nullopt once the queue is cancelled, or closed and empty.
  [[nodiscard]] std::optional<T> pop() MIGRATE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (count_ == 0 && !closed_) items_.wait(mutex_);
    return take();
  }

  /// As pop(), and nullopt at `deadline`: finished() tells which.
  [[nodiscard]] std::optional<T> pop_until(std::chrono::steady_clock::time_point deadline)
      MIGRATE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (count_ == 0 && !closed_) {
      if (!items_.wait_until(mutex_, deadline)) break;
    }
    return take();
  }

  [[nodiscard]] std::optional<T> try_pop() MIGRATE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return take();
  }

  /// No more items come; those in the queue may still be taken.
  void close() MIGRATE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    end();
  }

  /// Drops what is in the queue and wakes everybody.
  void cancel() MIGRATE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (count_ > 0) take();
    end();
  }

  /// No item will ever come out again.
  [[nodiscard]] bool finished() const MIGRATE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return closed_ && count_ == 0;
  }
  [[nodiscard]] std::size_t size() const MIGRATE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return count_;
  }
  [[nodiscard]] std::size_t capacity() const MIGRATE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return slots_.size();
  }

 private:
  void put(T&& item) MIGRATE_REQUIRES(mutex_) {
    slots_[(first_ + count_) % slots_.size()].emplace(std::move(item));
    ++count_;
    items_.notify_one();
  }
  std::optional<T> take() MIGRATE_REQUIRES(mutex_) {
    if (count_ == 0) return std::nullopt;
    std::optional<T> item = std::exchange(slots_[first_], std::nullopt);
    first_ = (first_ + 1) % slots_.size();
    --count_;
    room_.notify_one();
    return item;
  }
  void end() MIGRATE_REQUIRES(mutex_) {
    closed_ = true;
    items_.notify_all();
    room_.notify_all();
  }

  mutable Mutex mutex_;
  CondVar items_;
  CondVar room_;
  std::vector<std::optional<T>> slots_ MIGRATE_GUARDED_BY(mutex_);
  std::size_t first_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::size_t count_ MIGRATE_GUARDED_BY(mutex_) = 0;
  bool closed_ MIGRATE_GUARDED_BY(mutex_) = false;
};

}  // namespace migrate
