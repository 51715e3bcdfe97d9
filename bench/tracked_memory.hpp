// TrackedMemory: guest memory to be tracked, and what writes to it and watches how long it stalls.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <thread>

#include "base/fd.hpp"
#include "bench/measuring.hpp"
#include "migrate/trackers.hpp"

namespace migrate::bench {

enum class MemoryKind : std::uint8_t { kAnonymous, kHugePages, kMemfd };
[[nodiscard]] std::string_view to_string(MemoryKind kind);

/// All of it has been written once.
class TrackedMemory {
 public:
  TrackedMemory(MemoryKind kind, std::uint64_t bytes);
  ~TrackedMemory();
  TrackedMemory(const TrackedMemory&) = delete;
  TrackedMemory& operator=(const TrackedMemory&) = delete;

  [[nodiscard]] std::byte* page(std::uint64_t number) const { return base_ + number * kPageSize; }
  [[nodiscard]] std::uint64_t pages() const { return bytes_ / kPageSize; }
  [[nodiscard]] Backing backing() const;
  [[nodiscard]] int memfd() const { return memfd_.get(); }
  /// All of it as one region, from guest page 0 on.
  [[nodiscard]] MappedRegion region() const;

  /// Writes a word of every `step`-th page from the first on.
  void write(std::uint64_t step) const;

 private:
  MemoryKind kind_;
  std::uint64_t bytes_;
  Fd memfd_;
  std::byte* room_ = nullptr;  ///< What was mapped: more, to begin on a huge page.
  std::byte* base_ = nullptr;
};

/// Ticks of the processor's clock a millisecond, measured once.
[[nodiscard]] double ticks_per_ms();

/// Before other tasks of this machine, where that is allowed: they are not what is measured.
void run_first();

/// A thread that writes to page after page and keeps the longest time between two writes.
class SpinningWriter {
 public:
  explicit SpinningWriter(const TrackedMemory& memory);
  ~SpinningWriter() { (void)stop(); }
  SpinningWriter(const SpinningWriter&) = delete;
  SpinningWriter& operator=(const SpinningWriter&) = delete;

  /// Milliseconds; 0 the second time.
  double stop();

 private:
  void run(const TrackedMemory& memory);

  std::atomic<bool> started_{false};
  std::atomic<bool> quit_{false};
  std::uint64_t longest_ = 0;  ///< Ticks. The thread's until it is joined.
  std::thread thread_;
};

}  // namespace migrate::bench
