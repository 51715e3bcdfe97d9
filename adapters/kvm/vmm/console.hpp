// Console: what the guest has printed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include "base/mutex.hpp"

namespace migrate::vmm {

/// Keeps the newest text. Any thread may call any method.
class Console {
 public:
  /// A screenful or fifty: the demo guest prints a line at its start.
  static constexpr std::size_t kBytesMax = 64 << 10;
  /// What moves with the guest, so that its console goes on.
  static constexpr std::size_t kMovedBytesMax = 4 << 10;

  void put(char character) MIGRATE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (text_.size() == kBytesMax) text_.erase(0, kBytesMax / 2);
    text_ += character;
  }
  [[nodiscard]] std::string text() const MIGRATE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return text_;
  }
  [[nodiscard]] std::string newest(std::size_t bytes) const MIGRATE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return text_.substr(text_.size() - std::min(bytes, text_.size()));
  }
  void replace(std::string_view text) MIGRATE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    text_ = text;
  }

 private:
  mutable Mutex mutex_;
  std::string text_ MIGRATE_GUARDED_BY(mutex_);
};

}  // namespace migrate::vmm
