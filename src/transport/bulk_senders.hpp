// BulkSenders: the source's bulk lanes. Batches of pages go in, checked and hashed PAGES records
// leave on whichever lane is free.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/bounded_queue.hpp"
#include "base/mutex.hpp"
#include "base/rate_limiter.hpp"
#include "memory/page_ledger.hpp"
#include "migrate/memory.hpp"
#include "transport/page_coder.hpp"
#include "transport/record_channel.hpp"
#include "wire/digest.hpp"

namespace migrate {

/// What lanes did since they were asked last.
struct BulkTotals : CodedPages {
  std::uint64_t wire_bytes = 0;
  nanoseconds busy{0};       ///< Of all lanes together, from batch taken to batch sent.
  nanoseconds sending{0};    ///< Of that, in the socket.
  nanoseconds held_back{0};  ///< Of `busy`, waiting for the rate limiter.
  nanoseconds cpu{0};        ///< Processor time of the lanes' threads.
  BulkTotals& operator+=(const BulkTotals& other);
};

/// All methods but cancel() are the coordinator's.
class BulkSenders {
 public:
  struct Context {
    PageSource& pages;
    PageLedger& ledger;
    const wire::PageDigest& digest;
    RateLimiter* limiter = nullptr;  ///< Shared by all lanes; nullptr: no limit.
    nanoseconds idle_max;            ///< A lane on which nothing moves for this long has failed.
    wire::AgreedContent agreed = {};
    CompressionChoice compression = {CompressionChoice::Mode::kNone, 1};
    std::uint64_t delta_cache_bytes = 0;
    /// Called by the coordinator now and then (each alive_period) while it waits for lanes; an
    /// error ends the wait.
    std::function<Status()> on_wait = {};
  };

  /// Where not all lanes can be made, submit() and what follows say why.
  BulkSenders(std::vector<std::unique_ptr<RecordChannel>> lanes, Context context);
  ~BulkSenders();  ///< Shuts the lanes down and joins.

  /// Says what the round will send, before its first batch. It must not change before the round is
  /// over.
  void begin_round(const PageBitmap& round_set) { round_set_ = &round_set; }

  /// Until when submit(), drain() and what is built on them may wait: then kTimeout, after which
  /// all can go on. Barriers do not wait meanwhile. Nothing must be under way in this thread.
  void set_deadline(std::optional<std::chrono::steady_clock::time_point> deadline);
  [[nodiscard]] bool deadline_passed() const;
  /// Takes batches back that no lane has begun.
  void drop_queued();

  /// Hands a batch to the next free lane; waits while all have work enough. An error is the first
  /// one that a lane met.
  Status submit(const PageBatch& batch);

  /// Sends a batch on the calling thread where no lane has work: for the few pages of a final
  /// round, where waking another thread would cost more than the sending.
  Status send_here(const PageBatch& batch);
  /// Whether send_here() would not wait for anybody, or may.
  [[nodiscard]] bool may_send_here(const PageBatch& batch) const;

  /// Waits until every batch is sent and takes the totals; no barrier.
  Result<BulkTotals> drain();

  /// drain(), then a BARRIER on every lane. The totals are of the round.
  Result<BulkTotals> finish_round(std::uint32_t round, bool final);

  /// After finish_round(): ends the lanes and gives their connections back, open. Nothing else is
  /// sent by this afterwards.
  [[nodiscard]] std::vector<std::unique_ptr<RecordChannel>> release_lanes();

  /// Bytes sent since the last barrier, as far as known now; for progress.
  [[nodiscard]] std::uint64_t wire_bytes_now() const {
    return wire_bytes_now_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::size_t lanes() const { return lanes_.size(); }

  /// Ends it all: submit() and finish_round() fail. The connections stay open until this goes, so
  /// that the other side can be told first. Any thread.
  void cancel() noexcept;

 private:
  struct Lane;
  void run(Lane& lane);
  Status send_batch(Lane& lane, const PageBatch& batch);
  Status flush(Lane& lane, std::chrono::steady_clock::time_point batch_begin);
  Status make_lanes(std::vector<std::unique_ptr<RecordChannel>> channels);
  Status wait_for(nanoseconds wait);
  Status keep_waiting();
  [[nodiscard]] std::chrono::steady_clock::time_point next_wake() const;
  void take_back(std::uint64_t batches);
  void fail(Error error);
  [[nodiscard]] Error failure();

  Context context_;
  SentPages sent_;
  PageOriginals originals_;
  const PageBitmap* round_set_ = nullptr;  // Changed only while no lane works.
  std::vector<std::unique_ptr<Lane>> lanes_;
  BoundedQueue<PageBatch> queue_;
  std::atomic<std::uint64_t> wire_bytes_now_{0};
  std::optional<std::chrono::steady_clock::time_point> deadline_;

  Mutex mutex_;
  CondVar idle_;
  CondVar stopped_;  // Wakes lanes that wait for the rate limiter.
  std::uint64_t outstanding_ MIGRATE_GUARDED_BY(mutex_) = 0;
  bool failed_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::optional<Error> error_ MIGRATE_GUARDED_BY(mutex_);
};

}  // namespace migrate
