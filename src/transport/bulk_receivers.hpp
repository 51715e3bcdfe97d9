// BulkReceivers: the target's bulk lanes. PAGES records come in, are checked and put in place.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/mutex.hpp"
#include "memory/page_ledger.hpp"
#include "migrate/memory.hpp"
#include "transport/page_decoder.hpp"
#include "transport/record_channel.hpp"
#include "wire/digest.hpp"

namespace migrate {

/// What arrived between two barriers, on all lanes.
struct BulkArrivals : PageCounts {
  std::uint64_t wire_bytes = 0;
  nanoseconds cpu{0};
};

/// Lanes stop at each barrier until the coordinator lets them pass, so nothing beyond a barrier is
/// applied before all lanes have reached it. Methods are the coordinator's unless said otherwise.
class BulkReceivers {
 public:
  struct Context {
    PageSink& pages;
    PageLedger& ledger;
    const wire::PageDigest& digest;
    nanoseconds idle_max;              ///< How long waiting for a barrier lasts without a byte.
    std::function<void()> on_failure;  ///< Called once, from a lane, when one has failed.
    std::uint32_t round = 0;           ///< In which the lanes begin.
    wire::AgreedContent agreed = {};
    /// Grows with every byte that comes on a lane; outlives this.
    std::atomic<std::uint64_t>& heard;
    /// Called by the coordinator now and then (each alive_period) while it waits for a barrier;
    /// an error ends the wait.
    std::function<Status()> on_wait = {};
  };

  /// Where not all lanes can be made, failure() says why; on_failure is not called for it.
  BulkReceivers(std::vector<std::unique_ptr<RecordChannel>> lanes, Context context);
  ~BulkReceivers();  ///< stop()

  /// Shuts the lanes down and joins: from then on nothing comes, and on_failure is not called.
  void stop();

  /// Waits until every lane stands at the barrier of `round` and checks that they agree on it.
  Result<BulkArrivals> wait_for_barrier(std::uint32_t round, bool final);
  /// Lets the lanes go on into the next round. The ledger's regions may change before this.
  void pass_barrier();

  /// Waits until LAZY has come on every lane, and gives their connections back, open. Nothing else
  /// comes by this afterwards. Fails as wait_for_barrier() does.
  Result<std::vector<std::unique_ptr<RecordChannel>>> release_lanes();

  /// After stop(): whether all pages that came in the open round are void in the ledger. kProtocol
  /// names one that is not.
  [[nodiscard]] Status check_open_round_is_void() const;

  /// Makes waiting for a barrier fail with kCancelled; any thread.
  void cancel() noexcept;
  /// Makes it fail with kLinkLost: the source has come back on another link. Any thread.
  void abandon() noexcept;
  /// The first failure of a lane, if there is one; any thread.
  [[nodiscard]] std::optional<Error> failure();

 private:
  struct Lane;
  using SeenBits = std::vector<std::atomic<std::uint64_t>>;

  void run(Lane& lane);
  Status serve(Lane& lane);
  Status apply(Lane& lane, const wire::RecordHeader& header);
  Status make_lanes(std::vector<std::unique_ptr<RecordChannel>> channels);
  [[nodiscard]] bool came(const wire::PageReference& page) const;
  Status mark_seen(const PageLedger::Entry& entry, const wire::PageEntry& pages);
  Status stand_at_barrier(Lane& lane, const wire::Barrier& barrier);
  void reset_seen();
  void fail(Error error);
  bool all_stand(std::chrono::steady_clock::time_point until);
  bool all_left(std::chrono::steady_clock::time_point until);

  Context context_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  // Pages that came in this round, by handle: a page is sent at most once between two barriers.
  // The map changes only while all lanes stand at a barrier.
  std::unordered_map<std::uint32_t, std::unique_ptr<SeenBits>> seen_;
  std::atomic<int> working_{0};  // Lanes that are within a batch.
  std::uint32_t round_;          // Changed only while all lanes stand at a barrier.

  Mutex mutex_;
  CondVar changed_;
  std::size_t standing_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::size_t left_ MIGRATE_GUARDED_BY(mutex_) = 0;  // Have had LAZY.
  std::uint64_t passes_ MIGRATE_GUARDED_BY(mutex_) = 0;
  bool stopping_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::optional<Error> error_ MIGRATE_GUARDED_BY(mutex_);
};

}  // namespace migrate
