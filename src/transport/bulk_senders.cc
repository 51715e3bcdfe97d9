#include "transport/bulk_senders.hpp"

#include <algorithm>
#include <utility>

#include "base/guarded.hpp"
#include "base/start_thread.hpp"
#include "base/thread_cpu.hpp"

namespace migrate {
namespace {

using SteadyClock = std::chrono::steady_clock;

// Batches waiting for lanes: the coordinator re-arms the dirty log only this far ahead (8 MiB), and
// a lane never runs dry while the coordinator looks for the next batch.
constexpr std::size_t kQueuedBatches = 8;

// Zero and unchanged pages cost nothing on the wire, and memory may be full of them: at 10 GB/s a
// lane looks at 300 GB in the 30 s after which a silent source is given up. So often a page is sent
// although the target has it.
constexpr std::chrono::seconds kQuietMax{5};

Error out_of_time() {
  return make_error(ErrorCode::kTimeout, "the lanes had not sent all pages by the deadline");
}

}  // namespace

BulkTotals& BulkTotals::operator+=(const BulkTotals& other) {
  CodedPages::operator+=(other);
  wire_bytes += other.wire_bytes;
  busy += other.busy;
  sending += other.sending;
  held_back += other.held_back;
  cpu += other.cpu;
  return *this;
}

struct BulkSenders::Lane {
  Lane(std::unique_ptr<RecordChannel> record_channel, PageCoder page_coder)
      : channel(std::move(record_channel)), coder(std::move(page_coder)) {}
  std::unique_ptr<RecordChannel> channel;
  PageCoder coder;
  SteadyClock::time_point sent_at = SteadyClock::now();
  BulkTotals totals;  // Read by the coordinator while the lane is idle.
  std::thread thread;
};

BulkSenders::BulkSenders(std::vector<std::unique_ptr<RecordChannel>> lanes, Context context)
    : context_(context),
      sent_(static_cast<std::size_t>(context.delta_cache_bytes)),
      originals_((context.agreed.encodings & wire::set_of(wire::PageEncoding::kDuplicate)) != 0
                     ? context.ledger.pages()
                     : 0),
      queue_(kQueuedBatches) {
  MIGRATE_CHECK(!lanes.empty());
  Status made = make_lanes(std::move(lanes));
  // From the first thread on nothing may throw: its lane would be gone while it runs.
  for (auto& lane : lanes_) {
    if (made) {
      made = start_thread(lane->thread, "mig-bulk-send", [this, raw = lane.get()] { run(*raw); });
    }
  }
  if (!made) fail(std::move(made).error());
}

Status BulkSenders::make_lanes(std::vector<std::unique_ptr<RecordChannel>> channels) {
  for (auto& channel : channels) {
    MIGRATE_ASSIGN(auto coder,
                   PageCoder::create({context_.pages, context_.ledger, context_.digest, sent_,
                                      originals_, context_.agreed, context_.compression}));
    lanes_.push_back(std::make_unique<Lane>(std::move(channel), std::move(coder)));
  }
  return {};
}

BulkSenders::~BulkSenders() {
  cancel();
  for (auto& lane : lanes_) {
    if (lane->thread.joinable()) lane->thread.join();
  }
}

void BulkSenders::cancel() noexcept {
  {
    // First, so that no lane gives its channel's end for the reason.
    MutexLock lock(mutex_);
    failed_ = true;
    idle_.notify_all();
    stopped_.notify_all();
  }
  queue_.cancel();
  // Not shut: the other side would take it for a link that broke, before it hears why.
  for (auto& lane : lanes_) lane->channel->channel().interrupt();
}

void BulkSenders::fail(Error error) {
  {
    MutexLock lock(mutex_);
    if (!failed_) error_ = std::move(error);
    failed_ = true;
    idle_.notify_all();
    stopped_.notify_all();
  }
  queue_.cancel();
}

Error BulkSenders::failure() {
  MutexLock lock(mutex_);
  if (error_) return *error_;
  return make_error(ErrorCode::kCancelled, "the lanes were told to stop");
}

void BulkSenders::run(Lane& lane) {
  while (auto batch = queue_.pop()) {
    const nanoseconds cpu = thread_cpu();
    Status sent = guarded([&] { return send_batch(lane, *batch); });
    lane.totals.cpu += thread_cpu() - cpu;
    if (!sent) return fail(std::move(sent).error());
    MutexLock lock(mutex_);
    if (--outstanding_ == 0) idle_.notify_all();
  }
}

Status BulkSenders::submit(const PageBatch& batch) {
  if (deadline_passed()) return out_of_time();
  {
    MutexLock lock(mutex_);
    ++outstanding_;
  }
  PageBatch item = batch;
  while (!queue_.push_until(item, next_wake())) {
    if (queue_.finished()) return failure();
    if (deadline_passed()) {
      take_back(1);
      return out_of_time();
    }
    MIGRATE_TRY(keep_waiting());
  }
  return {};
}

SteadyClock::time_point BulkSenders::next_wake() const {
  const auto wake = SteadyClock::now() + RecordChannel::alive_period(context_.idle_max);
  return deadline_ ? std::min(wake, *deadline_) : wake;
}

void BulkSenders::set_deadline(std::optional<SteadyClock::time_point> deadline) {
  deadline_ = deadline;
}

bool BulkSenders::deadline_passed() const { return deadline_ && SteadyClock::now() >= *deadline_; }

void BulkSenders::drop_queued() {
  std::uint64_t dropped = 0;
  while (queue_.try_pop()) ++dropped;
  take_back(dropped);
}

void BulkSenders::take_back(std::uint64_t batches) {
  MutexLock lock(mutex_);
  outstanding_ -= batches;
  if (outstanding_ == 0) idle_.notify_all();
}

bool BulkSenders::may_send_here(const PageBatch& batch) const {
  if (!deadline_) return true;
  // A limiter may let the batch wait, and packing a batch may take half a second.
  if (context_.limiter != nullptr || lanes_.empty()) return false;
  if (context_.compression.mode != CompressionChoice::Mode::kNone) return false;
  const std::size_t bytes = wire::kRecordHeaderBytes + wire::kBatchHeaderBytes +
                            batch.count * (wire::kPageEntryBytes + kPageSize);
  return lanes_.front()->channel->channel().has_room(bytes);
}

Status BulkSenders::keep_waiting() { return context_.on_wait ? context_.on_wait() : Status{}; }

Status BulkSenders::send_here(const PageBatch& batch) {
  MIGRATE_TRY(drain());  // Fails when there are no lanes.
  return send_batch(*lanes_.front(), batch);
}

Result<BulkTotals> BulkSenders::drain() {
  for (;;) {
    {
      MutexLock lock(mutex_);
      bool woken = true;
      while (outstanding_ > 0 && !failed_ && woken) woken = idle_.wait_until(mutex_, next_wake());
      if (failed_) break;
      if (outstanding_ == 0) {
        BulkTotals totals;
        for (auto& lane : lanes_) totals += lane->totals;
        return totals;
      }
    }
    if (deadline_passed()) return out_of_time();
    MIGRATE_TRY(keep_waiting());
  }
  return failure();
}

Result<BulkTotals> BulkSenders::finish_round(std::uint32_t round, bool final) {
  MIGRATE_ASSIGN(BulkTotals totals, drain());
  for (auto& lane : lanes_) {
    const wire::Barrier barrier{round, final, lane->totals.carried, lane->totals.digest_change};
    const std::uint64_t before = lane->channel->sent_bytes();
    lane->channel->set_detached(deadline_.has_value());
    Status sent = lane->channel->send(barrier, context_.idle_max);
    lane->channel->set_detached(false);
    MIGRATE_TRY(std::move(sent));
    const std::uint64_t bytes = lane->channel->sent_bytes() - before;
    totals.wire_bytes += bytes;
    // Nobody waits before a barrier: the next batch does.
    if (context_.limiter != nullptr) {
      static_cast<void>(context_.limiter->reserve(bytes, SteadyClock::now()));
    }
    lane->totals = {};
    lane->sent_at = SteadyClock::now();
  }
  wire_bytes_now_.store(0, std::memory_order_relaxed);
  return totals;
}

std::vector<std::unique_ptr<RecordChannel>> BulkSenders::release_lanes() {
  queue_.cancel();
  std::vector<std::unique_ptr<RecordChannel>> channels;
  for (auto& lane : lanes_) {
    if (lane->thread.joinable()) lane->thread.join();
    channels.push_back(std::move(lane->channel));
  }
  lanes_.clear();
  return channels;
}

Status BulkSenders::send_batch(Lane& lane, const PageBatch& batch) {
  const auto begin = SteadyClock::now();
  const std::uint64_t wire_before = lane.channel->sent_bytes();
  const bool quiet =
      begin - lane.sent_at >= std::min<nanoseconds>(kQuietMax, context_.idle_max / 4);
  MIGRATE_CHECK(round_set_ != nullptr);
  Status sent = lane.coder.code(batch, *round_set_, quiet);
  if (sent && !lane.coder.empty()) sent = flush(lane, begin);
  static_cast<CodedPages&>(lane.totals) += lane.coder.take_counts();
  const std::uint64_t wire_bytes = lane.channel->sent_bytes() - wire_before;
  lane.totals.wire_bytes += wire_bytes;
  wire_bytes_now_.fetch_add(wire_bytes, std::memory_order_relaxed);
  lane.totals.busy += SteadyClock::now() - begin;
  return sent;
}

Status BulkSenders::wait_for(nanoseconds wait) {
  const auto until = SteadyClock::now() + wait;
  MutexLock lock(mutex_);
  while (wait.count() > 0 && !failed_ && stopped_.wait_until(mutex_, until)) {
  }
  if (failed_) return make_error(ErrorCode::kCancelled, "the lanes were told to stop");
  return {};
}

Status BulkSenders::flush(Lane& lane, SteadyClock::time_point batch_begin) {
  MIGRATE_TRY(lane.coder.pack());
  const std::size_t content_bytes = lane.coder.wire_content_bytes();
  nanoseconds waiting{0};
  if (context_.limiter != nullptr) {
    const auto now = SteadyClock::now();
    MIGRATE_TRY(wait_for(context_.limiter->reserve(lane.coder.wire_bytes(), now)));
    waiting = SteadyClock::now() - now;
    lane.totals.held_back += waiting;
  }
  const bool measured = lane.coder.wants_times();
  const auto begin = SteadyClock::now();
  const nanoseconds cpu = measured ? thread_cpu() : nanoseconds(0);
  MIGRATE_TRY(lane.channel->send_pages(
      [&](std::uint64_t sequence, const wire::Hasher& hasher) {
        return lane.coder.head(sequence, hasher);
      },
      lane.coder.content(), content_bytes, context_.idle_max));
  lane.sent_at = SteadyClock::now();
  lane.totals.sending += lane.sent_at - begin;
  if (measured) {
    // What the call took beyond this thread's own work, it waited for the socket.
    const nanoseconds own = thread_cpu() - cpu;
    waiting += std::max<nanoseconds>(lane.sent_at - begin - own, nanoseconds(0));
    lane.coder.note_sent(lane.sent_at - batch_begin, waiting);
  }
  return {};
}

}  // namespace migrate
