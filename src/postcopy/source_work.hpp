// SourceWork: what the source's lanes share. What is still to be sent, what was done, and whether
// it is over.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/mutex.hpp"
#include "base/rate_limiter.hpp"
#include "postcopy/lazy_source.hpp"
#include "postcopy/page_sender.hpp"
#include "postcopy/push_order.hpp"

namespace migrate::postcopy {

/// Any thread may call any method, but for those said to be the coordinator's.
class SourceWork {
 public:
  using Time = std::chrono::steady_clock::time_point;

  SourceWork(const LazySource::Context& context, const LazySource::Work& work);

  /// nullptr for a handle that there is not.
  [[nodiscard]] const SourceRegion* find(wire::RegionHandle handle) const;
  [[nodiscard]] const SourceRegion& region(std::size_t index) const { return regions_[index]; }

  // The coordinator's. set_missing() while no lane works.
  void set_missing(const PageBitmap& missing) MIGRATE_EXCLUDES(mutex_);
  void stands(const PageBitmap& missing) MIGRATE_EXCLUDES(mutex_);
  void lead(const PageBitmap& first) MIGRATE_EXCLUDES(mutex_);
  void open() MIGRATE_EXCLUDES(mutex_);
  /// Lanes begin, or end: whoever waits here returns.
  void begin() MIGRATE_EXCLUDES(mutex_);
  void stop() MIGRATE_EXCLUDES(mutex_);
  /// The guest stands, so that what is read of it is what stays. Any thread.
  [[nodiscard]] bool has_stood() const MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] std::uint64_t left() const MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] SourceFigures figures() const MIGRATE_EXCLUDES(mutex_);

  /// The next pages to be pushed: waits for some to be due. False once lanes have ended.
  [[nodiscard]] bool next(std::uint64_t pages_max, PushOrder::Batch& batch, bool& waited)
      MIGRATE_EXCLUDES(mutex_);
  /// Books what was pushed, and waits as the limit wants it. False once lanes have ended.
  [[nodiscard]] bool note_pushed(const SentCounts& counts) MIGRATE_EXCLUDES(mutex_);
  /// Of `region`: a demand that has been answered.
  void note_served(const SourceRegion& region, PushOrder::Run run, const SentCounts& counts)
      MIGRATE_EXCLUDES(mutex_);

  /// The first error since begin() ends the lanes; what comes later is its consequence. True for
  /// that one.
  bool fail(Error error) MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] std::optional<Error> failure() const MIGRATE_EXCLUDES(mutex_);

  /// Of what is pushed; 0: none.
  [[nodiscard]] std::uint64_t limit() const { return limiter_.rate(); }

 private:
  std::vector<SourceRegion> regions_;  // In order of handles; the order's numbers.
  RateLimiter limiter_;

  mutable Mutex mutex_;
  CondVar news_;
  PushOrder order_ MIGRATE_GUARDED_BY(mutex_);
  SourceFigures figures_ MIGRATE_GUARDED_BY(mutex_);
  bool stands_ MIGRATE_GUARDED_BY(mutex_);
  bool ended_ MIGRATE_GUARDED_BY(mutex_) = true;
  std::optional<Error> error_ MIGRATE_GUARDED_BY(mutex_);
};

}  // namespace migrate::postcopy
