// DemandLane: this side's voice on the urgent lane, while there is one.
#pragma once

#include <algorithm>
#include <span>

#include "base/guarded.hpp"
#include "base/mutex.hpp"
#include "transport/record_channel.hpp"
#include "wire/messages.hpp"

namespace migrate::postcopy {

/// Any thread.
class DemandLane {
 public:
  explicit DemandLane(nanoseconds idle_max) : idle_max_(idle_max) {}

  /// What send() uses from now on; nullptr: nothing.
  void set_channel(RecordChannel* channel) {
    const MutexLock lock(mutex_);
    channel_ = channel;
  }
  /// Without a lane nothing is sent: what is waited for then is known to the pager. A lane that
  /// takes nothing is shut down, which its receiver notices.
  void send(std::span<const wire::Demand::Pages> pages) {
    const MutexLock lock(mutex_);
    while (channel_ != nullptr && !pages.empty()) {
      const auto some = pages.first(std::min(pages.size(), wire::kDemandsMax));
      // By these names: the analysis does not see that the lock is held in there.
      wire::Demand* const record = &record_;
      RecordChannel* const channel = channel_;
      Status sent = guarded([&] {
        record->wanted.assign(some.begin(), some.end());
        return channel->send(*record, idle_max_);
      });
      if (!sent) {
        channel_->channel().shutdown();
        channel_ = nullptr;
      }
      pages = pages.subspan(some.size());
    }
  }

 private:
  const nanoseconds idle_max_;
  Mutex mutex_;
  RecordChannel* channel_ MIGRATE_GUARDED_BY(mutex_) = nullptr;
  wire::Demand record_ MIGRATE_GUARDED_BY(mutex_);  // Keeps its memory.
};

}  // namespace migrate::postcopy
