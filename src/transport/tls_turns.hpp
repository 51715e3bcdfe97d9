// TlsTurns: a lock that is taken in the order it was asked for.
#pragma once

#include <cstdint>

#include "base/mutex.hpp"
#include "base/thread_annotations.hpp"

namespace migrate {

/// A thread that sends without pause takes an ordinary mutex again before who waits for it wakes;
/// here it waits its turn, and the receiving thread gets its own.
class MIGRATE_CAPABILITY("mutex") TlsTurns {
 public:
  TlsTurns() = default;
  TlsTurns(const TlsTurns&) = delete;
  TlsTurns& operator=(const TlsTurns&) = delete;

  void lock() MIGRATE_ACQUIRE() {
    MutexLock lock(mutex_);
    const std::uint64_t mine = next_++;
    while (serving_ != mine) changed_.wait(mutex_);
  }
  void unlock() MIGRATE_RELEASE() {
    MutexLock lock(mutex_);
    ++serving_;
    if (serving_ != next_) changed_.notify_all();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::uint64_t next_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::uint64_t serving_ MIGRATE_GUARDED_BY(mutex_) = 0;
};

/// Holds a turn for a scope.
class MIGRATE_SCOPED_CAPABILITY TlsTurn {
 public:
  explicit TlsTurn(TlsTurns& turns) MIGRATE_ACQUIRE(turns) : turns_(turns) { turns_.lock(); }
  ~TlsTurn() MIGRATE_RELEASE() { turns_.unlock(); }
  TlsTurn(const TlsTurn&) = delete;
  TlsTurn& operator=(const TlsTurn&) = delete;

 private:
  TlsTurns& turns_;
};

}  // namespace migrate
