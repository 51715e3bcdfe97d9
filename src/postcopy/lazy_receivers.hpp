// LazyReceivers: the lanes on which pages come while the guest may be waiting for them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "memory/page_ledger.hpp"
#include "migrate/result.hpp"
#include "postcopy/demand_lane.hpp"
#include "postcopy/lazy_memory.hpp"
#include "postcopy/page_installer.hpp"
#include "postcopy/pager.hpp"
#include "transport/record_channel.hpp"
#include "wire/digest.hpp"

namespace migrate::postcopy {

/// A thread each. The urgent lane's is also the one to notice that nobody answers.
class LazyReceivers {
 public:
  struct Context {
    const LazyMemory& memory;
    Pager& pager;
    PageLedger& ledger;
    const wire::PageDigest& digest;
    InstallCounts& counts;
    DemandLane& demands;
    nanoseconds idle_max;
    std::uint32_t round;
    std::atomic<std::uint64_t>& heard;      ///< Grows with every byte that comes.
    std::function<void(Error)> on_failure;  ///< Called by each lane that ends, but by stop().
    std::function<void()> on_last_page;     ///< Called when nothing is missing any more.
  };
  /// An error: not all of them run, and start() is to be followed by the end of this.
  LazyReceivers(std::vector<std::unique_ptr<RecordChannel>> bulk,
                std::unique_ptr<RecordChannel> urgent, Context context);
  Status start();
  ~LazyReceivers();  ///< stop()

  [[nodiscard]] RecordChannel& urgent();
  /// Ends what is under way on the lanes; any thread.
  void shut_down();
  /// Ends the threads; from then on nothing is called.
  void stop();

 private:
  struct Lane;
  void run(Lane& lane);
  Status serve(Lane& lane);
  Status apply(Lane& lane, const wire::RecordHeader& header);
  Status check_answers(nanoseconds period);

  Context context_;
  std::vector<std::unique_ptr<Lane>> lanes_;  // The urgent one first.
  std::atomic<bool> stopping_{false};
  SteadyClock::time_point begun_ = SteadyClock::now();

  // Owned by the urgent lane's thread: what was heard of the peer, and when.
  std::uint64_t heard_ = 0;
  SteadyClock::time_point heard_at_ = begun_;
  SteadyClock::time_point checked_at_ = begun_;
};

}  // namespace migrate::postcopy
