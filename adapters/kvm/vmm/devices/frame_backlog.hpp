// FrameBacklog: Ethernet frames that wait for a network card, from elsewhere than its interface.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "base/mutex.hpp"

namespace migrate::vmm {

/// In order, bounded: what comes when it is full is dropped, as at the end of a tap's queue. Any
/// thread.
class FrameBacklog {
 public:
  /// What a tap's own queue holds by default (its txqueuelen, 1000), of frames of 1500 bytes.
  static constexpr std::size_t kFramesMax = 1024;
  static constexpr std::size_t kBytesMax = 2 << 20;

  /// False: full.
  bool put(std::span<const std::byte> frame) MIGRATE_EXCLUDES(mutex_);
  /// The oldest, into `frame`, which is made as long; false when there is none.
  bool take(std::vector<std::byte>& frame) MIGRATE_EXCLUDES(mutex_);

 private:
  mutable Mutex mutex_;
  std::deque<std::vector<std::byte>> frames_ MIGRATE_GUARDED_BY(mutex_);
  std::size_t bytes_ MIGRATE_GUARDED_BY(mutex_) = 0;
};

}  // namespace migrate::vmm
