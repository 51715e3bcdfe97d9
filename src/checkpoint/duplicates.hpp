// Duplicates: where in an image a page's content is already.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "checkpoint/image_format.hpp"

namespace migrate::checkpoint {

/// A bounded table; what collides is forgotten. A hit is one of two hashes with independent
/// secrets: the bytes, which have left, are not compared. Any thread.
class Duplicates {
 public:
  /// For a guest of so many pages: 16 bytes for every fourth, 64 KiB to 64 MiB.
  explicit Duplicates(std::uint64_t pages);

  /// `hash` is the image's, `other` by a secret that nobody else knows.
  [[nodiscard]] PageLocation find(std::uint64_t hash, std::uint64_t other) const {
    const Entry& entry = entries_[hash & mask_];
    const std::uint64_t location = entry.location.load(std::memory_order_relaxed);
    const bool hit = (entry.check.load(std::memory_order_relaxed) ^ location) == other;
    return hit ? PageLocation{location} : PageLocation::zero();
  }
  void note(std::uint64_t hash, std::uint64_t other, PageLocation location) {
    Entry& entry = entries_[hash & mask_];
    entry.check.store(other ^ location.value, std::memory_order_relaxed);
    entry.location.store(location.value, std::memory_order_relaxed);
  }

 private:
  // Without a lock: halves of two entries do not fit together, because `check` is told apart by
  // the location.
  struct Entry {
    std::atomic<std::uint64_t> check{0};  // The other hash, xor the location.
    std::atomic<std::uint64_t> location{0};
  };
  std::uint64_t mask_;
  std::unique_ptr<Entry[]> entries_;
};

}  // namespace migrate::checkpoint
