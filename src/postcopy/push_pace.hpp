// PushPace: what the bulk lanes' channels tell of the link, given to PaceControl, and what it says,
// given to them.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "base/mutex.hpp"
#include "migrate/channel.hpp"
#include "postcopy/pace_control.hpp"

namespace migrate::postcopy {

/// Shared by the bulk lanes' threads, each of which calls for its own lane.
class PushPace {
 public:
  using Time = std::chrono::steady_clock::time_point;

  PushPace(const PaceControl::Limits& limits, std::size_t lanes, Time now);

  /// `bytes` were handed to `channel`; `hungry`: it was kept waiting for them. Sets the channel's
  /// pace when there is a new one.
  void note(std::size_t lane, Channel& channel, std::uint64_t bytes, bool hungry, Time now)
      MIGRATE_EXCLUDES(mutex_);
  /// As many pages as a lane should take at once.
  [[nodiscard]] std::uint64_t pages_at_once() const MIGRATE_EXCLUDES(mutex_);

 private:
  struct Lane {
    LinkState link;
    Time asked{};               ///< When `link` was.
    std::uint64_t version = 0;  ///< Of the pace that the channel has.
  };
  void step(Time now) MIGRATE_REQUIRES(mutex_);
  [[nodiscard]] Pace pace() const MIGRATE_REQUIRES(mutex_);

  const bool limited_;

  mutable Mutex mutex_;
  bool known_ MIGRATE_GUARDED_BY(mutex_) = false;  ///< A channel has told of the link.
  PaceControl control_ MIGRATE_GUARDED_BY(mutex_);
  std::vector<Lane> lanes_ MIGRATE_GUARDED_BY(mutex_);
  PaceControl::Sample sample_ MIGRATE_GUARDED_BY(mutex_);
  Time stepped_ MIGRATE_GUARDED_BY(mutex_);
  std::uint64_t version_ MIGRATE_GUARDED_BY(mutex_) = 1;
};

}  // namespace migrate::postcopy
