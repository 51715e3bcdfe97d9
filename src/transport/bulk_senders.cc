#include "transport/bulk_senders.hpp"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <utility>

#include "memory/zero_page.hpp"

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

nanoseconds thread_cpu() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + nanoseconds(time.tv_nsec);
}

}  // namespace

BulkTotals& BulkTotals::operator+=(const BulkTotals& other) {
  raw += other.raw;
  zero += other.zero;
  unchanged += other.unchanged;
  gone += other.gone;
  wire_bytes += other.wire_bytes;
  digest_change += other.digest_change;
  carried += other.carried;
  busy += other.busy;
  sending += other.sending;
  cpu += other.cpu;
  return *this;
}

struct BulkSenders::Lane {
  explicit Lane(std::unique_ptr<RecordChannel> record_channel)
      : channel(std::move(record_channel)) {
    staging.resize(PageBatch::kPagesMax * kPageSize);
    content.reserve(PageBatch::kPagesMax);
  }
  std::unique_ptr<RecordChannel> channel;
  std::vector<std::byte> staging;  // A running guest's pages are hashed and sent from this copy.
  std::array<const std::byte*, PageBatch::kPagesMax> page{};
  wire::PagesEncoder encoder;
  std::vector<iovec> content;
  SteadyClock::time_point sent_at = SteadyClock::now();
  BulkTotals totals;  // Read by the coordinator while the lane is idle.
  std::thread thread;
};

BulkSenders::BulkSenders(std::vector<std::unique_ptr<RecordChannel>> lanes, Context context)
    : context_(context), queue_(kQueuedBatches) {
  MIGRATE_CHECK(!lanes.empty());
  for (auto& lane : lanes) lanes_.push_back(std::make_unique<Lane>(std::move(lane)));
  for (auto& lane : lanes_) {
    lane->thread = std::thread([this, raw = lane.get()] { run(*raw); });
    pthread_setname_np(lane->thread.native_handle(), "mig-bulk-send");
  }
}

BulkSenders::~BulkSenders() {
  cancel();
  for (auto& lane : lanes_) lane->thread.join();
}

void BulkSenders::cancel() noexcept {
  queue_.cancel();
  for (auto& lane : lanes_) lane->channel->channel().shutdown();
  MutexLock lock(mutex_);
  failed_ = true;
  idle_.notify_all();
  stopped_.notify_all();
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
    Status sent = send_batch(lane, *batch);
    lane.totals.cpu += thread_cpu() - cpu;
    if (!sent) return fail(std::move(sent).error());
    MutexLock lock(mutex_);
    if (--outstanding_ == 0) idle_.notify_all();
  }
}

Status BulkSenders::submit(const PageBatch& batch) {
  {
    MutexLock lock(mutex_);
    ++outstanding_;
  }
  if (queue_.push(batch)) return {};
  return failure();
}

Status BulkSenders::send_here(const PageBatch& batch) {
  MIGRATE_TRY(drain());
  return send_batch(*lanes_.front(), batch);
}

Result<BulkTotals> BulkSenders::drain() {
  BulkTotals totals;
  {
    MutexLock lock(mutex_);
    while (outstanding_ > 0 && !failed_) idle_.wait(mutex_);
    if (!failed_) {
      for (auto& lane : lanes_) totals += lane->totals;
      return totals;
    }
  }
  return failure();
}

Result<BulkTotals> BulkSenders::finish_round(std::uint32_t round, bool final) {
  MIGRATE_ASSIGN(BulkTotals totals, drain());
  for (auto& lane : lanes_) {
    const wire::Barrier barrier{round, final, lane->totals.carried, lane->totals.digest_change};
    const std::uint64_t before = lane->channel->sent_bytes();
    MIGRATE_TRY(lane->channel->send(barrier, context_.idle_max));
    totals.wire_bytes += lane->channel->sent_bytes() - before;
    lane->totals = {};
    lane->sent_at = SteadyClock::now();
  }
  wire_bytes_now_.store(0, std::memory_order_relaxed);
  return totals;
}

Status BulkSenders::send_batch(Lane& lane, const PageBatch& batch) {
  const auto begin = SteadyClock::now();
  const std::uint64_t wire_before = lane.channel->sent_bytes();
  Status sent = gather(lane, batch);
  const bool quiet =
      begin - lane.sent_at >= std::min<nanoseconds>(kQuietMax, context_.idle_max / 4);
  if (sent) sent = encode_and_send(lane, batch, quiet);
  const std::uint64_t wire_bytes = lane.channel->sent_bytes() - wire_before;
  lane.totals.wire_bytes += wire_bytes;
  wire_bytes_now_.fetch_add(wire_bytes, std::memory_order_relaxed);
  lane.totals.busy += SteadyClock::now() - begin;
  return sent;
}

Status BulkSenders::gather(Lane& lane, const PageBatch& batch) {
  const Region& region = batch.entry->region;
  const auto mapped = context_.pages.mapped(region.id);
  if (!mapped.empty()) MIGRATE_CHECK(mapped.size() == region.range.bytes());
  for (std::uint32_t i = 0; i < batch.count;) {
    std::uint32_t run = 1;
    while (i + run < batch.count && batch.pages[i + run] == batch.pages[i] + run) ++run;
    std::byte* staged = lane.staging.data() + i * kPageSize;
    const std::byte* from = staged;
    if (!mapped.empty() && batch.stable) {
      from = mapped.data() + batch.pages[i] * kPageSize;
    } else if (!mapped.empty()) {
      std::memcpy(staged, mapped.data() + batch.pages[i] * kPageSize, run * kPageSize);
    } else {
      const PageRange range{region.range.first + batch.pages[i], run};
      MIGRATE_ASSIGN(const ReadOutcome outcome,
                     context_.pages.read(region.id, range, {staged, run * kPageSize}));
      if (outcome == ReadOutcome::kGone) from = nullptr;
    }
    for (std::uint32_t j = 0; j < run; ++j) {
      lane.page[i + j] = from == nullptr ? nullptr : from + j * kPageSize;
    }
    i += run;
  }
  return {};
}

Status BulkSenders::encode_and_send(Lane& lane, const PageBatch& batch, bool quiet) {
  PageLedger::Entry& entry = *batch.entry;
  const wire::RegionHandle handle{entry.handle};
  const std::uint64_t zero_hash = context_.digest.zero_hash();
  lane.content.clear();
  lane.encoder.begin(handle, batch.round);
  for (std::uint32_t i = 0; i < batch.count; ++i) {
    if (lane.page[i] == nullptr) {
      ++lane.totals.gone;
      continue;
    }
    const std::uint64_t page = batch.pages[i];
    std::uint64_t& known = entry.hashes[page];
    const bool zero = is_zero_page(lane.page[i]);
    const std::uint64_t hash = zero ? zero_hash : context_.digest.hash({lane.page[i], kPageSize});
    if (zero) ++lane.totals.zero;
    if (hash == known && !std::exchange(quiet, false)) {
      if (!zero) ++lane.totals.unchanged;
      continue;
    }
    lane.totals.digest_change += context_.digest.change(handle, page, known, hash);
    known = hash;
    if (zero) {
      lane.encoder.add_zeros(page, 1);
    } else {
      ++lane.totals.raw;
      lane.encoder.add_raw(page, hash);
      lane.content.push_back({const_cast<std::byte*>(lane.page[i]), kPageSize});
    }
  }
  return lane.encoder.empty() ? Status{} : flush(lane);
}

Status BulkSenders::wait_for(nanoseconds wait) {
  const auto until = SteadyClock::now() + wait;
  MutexLock lock(mutex_);
  while (wait.count() > 0 && !failed_ && stopped_.wait_until(mutex_, until)) {
  }
  if (failed_) return make_error(ErrorCode::kCancelled, "the lanes were told to stop");
  return {};
}

Status BulkSenders::flush(Lane& lane) {
  if (context_.limiter != nullptr) {
    const std::uint64_t bytes = lane.encoder.content_bytes() + wire::kBatchHeaderBytes;
    MIGRATE_TRY(wait_for(context_.limiter->reserve(bytes, SteadyClock::now())));
  }
  const auto begin = SteadyClock::now();
  MIGRATE_TRY(lane.channel->send_pages(lane.encoder, lane.content, context_.idle_max));
  lane.sent_at = SteadyClock::now();
  lane.totals.sending += lane.sent_at - begin;
  lane.totals.carried += lane.encoder.pages();
  return {};
}

}  // namespace migrate
