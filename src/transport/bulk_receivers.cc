#include "transport/bulk_receivers.hpp"

#include <algorithm>

#include "base/guarded.hpp"
#include "base/start_thread.hpp"
#include "base/thread_cpu.hpp"

namespace migrate {
namespace {

using SteadyClock = std::chrono::steady_clock;

}  // namespace

struct BulkReceivers::Lane {
  Lane(std::unique_ptr<RecordChannel> record_channel, PageDecoder page_decoder)
      : channel(std::move(record_channel)), decoder(std::move(page_decoder)) {}
  std::unique_ptr<RecordChannel> channel;
  PageDecoder decoder;
  BulkArrivals arrivals;  // Read by the coordinator while the lane stands at a barrier.
  std::uint64_t bytes_before = 0;
  wire::Barrier barrier;
  std::thread thread;
};

BulkReceivers::BulkReceivers(std::vector<std::unique_ptr<RecordChannel>> lanes, Context context)
    : context_(std::move(context)), round_(context_.round) {
  reset_seen();
  Status made = make_lanes(std::move(lanes));
  // From the first thread on nothing may throw: its lane would be gone while it runs.
  for (auto& lane : lanes_) {
    if (made) {
      made = start_thread(lane->thread, "mig-bulk-recv", [this, raw = lane.get()] { run(*raw); });
    }
  }
  if (made) return;
  MutexLock lock(mutex_);
  if (!error_) error_ = std::move(made).error();
}

Status BulkReceivers::make_lanes(std::vector<std::unique_ptr<RecordChannel>> channels) {
  for (auto& channel : channels) {
    MIGRATE_ASSIGN(
        auto decoder,
        PageDecoder::create({context_.pages, context_.ledger, context_.digest,
                             [this](const wire::PageReference& page) { return came(page); }}));
    channel->set_agreed(context_.agreed);
    channel->set_heard(context_.heard);
    lanes_.push_back(std::make_unique<Lane>(std::move(channel), std::move(decoder)));
  }
  return {};
}

BulkReceivers::~BulkReceivers() { stop(); }

void BulkReceivers::stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  for (auto& lane : lanes_) lane->channel->channel().shutdown();
  for (auto& lane : lanes_) {
    if (lane->thread.joinable()) lane->thread.join();
  }
}

void BulkReceivers::abandon() noexcept {
  MutexLock lock(mutex_);
  if (!error_) {
    error_ = make_error(ErrorCode::kLinkLost, "the source has come back on another connection");
  }
  changed_.notify_all();
}

Status BulkReceivers::check_open_round_is_void() const {
  for (const auto& entry : context_.ledger.entries()) {
    const auto seen = seen_.find(entry->handle);
    if (seen == seen_.end()) continue;
    for (std::uint64_t page = 0; page < entry->region.range.count; ++page) {
      const std::uint64_t word = (*seen->second)[page / 64].load(std::memory_order_relaxed);
      if ((word >> (page % 64) & 1) == 0 || entry->hashes[page] == wire::PageDigest::kVoid)
        continue;
      return make_error(ErrorCode::kProtocol,
                        page_text(*entry, page) + " came in round " + std::to_string(round_) +
                            ", which the link cut short, and the source does not know of it");
    }
  }
  return {};
}

void BulkReceivers::cancel() noexcept {
  MutexLock lock(mutex_);
  if (!error_) error_ = make_error(ErrorCode::kCancelled, "receiving was cancelled");
  changed_.notify_all();
}

std::optional<Error> BulkReceivers::failure() {
  MutexLock lock(mutex_);
  return error_;
}

void BulkReceivers::fail(Error error) {
  {
    MutexLock lock(mutex_);
    if (stopping_ || error_) return;
    error_ = std::move(error);
    changed_.notify_all();
  }
  context_.on_failure();
}

void BulkReceivers::run(Lane& lane) {
  Status served = guarded([&] { return serve(lane); });
  if (!served) return fail(std::move(served).error());
  MutexLock lock(mutex_);
  ++left_;
  changed_.notify_all();
}

/// Until LAZY, or a failure.
Status BulkReceivers::serve(Lane& lane) {
  for (;;) {
    auto record = lane.channel->receive(context_.idle_max);
    if (!record) {
      // A quiet lane is no failure: the coordinator knows whether the others are quiet too.
      if (record.error().code == ErrorCode::kTimeout) continue;
      return std::move(record).error();
    }
    switch (record->header.type) {
      case wire::RecordType::kPages:
        ++working_;
        MIGRATE_TRY(apply(lane, record->header));
        --working_;
        break;
      case wire::RecordType::kBarrier: {
        MIGRATE_ASSIGN(const auto barrier, wire::decode<wire::Barrier>(record->body));
        MIGRATE_TRY(stand_at_barrier(lane, barrier));
        break;
      }
      case wire::RecordType::kLazy: {
        MIGRATE_ASSIGN(const auto lazy, wire::decode<wire::Lazy>(record->body));
        if (lazy.round == round_ && lane.arrivals.carried == 0) return {};
        return make_error(ErrorCode::kProtocol,
                          "LAZY came on a lane in the middle of round " + std::to_string(round_));
      }
      default:
        return RecordChannel::unexpected(*record, wire::RecordType::kPages);
    }
  }
}

Status BulkReceivers::apply(Lane& lane, const wire::RecordHeader& header) {
  const nanoseconds cpu = thread_cpu();
  MIGRATE_ASSIGN(const auto head, lane.channel->receive_batch_head(header, context_.idle_max));
  PageLedger::Entry* entry = context_.ledger.find(head.batch.region.number);
  if (entry == nullptr) {
    return make_error(ErrorCode::kProtocol, "pages of region handle " +
                                                std::to_string(head.batch.region.number) +
                                                ", which is not known");
  }
  if (head.batch.round != round_) {
    return make_error(ErrorCode::kProtocol, "pages of round " + std::to_string(head.batch.round) +
                                                " in round " + std::to_string(round_));
  }
  MIGRATE_ASSIGN(
      const auto table,
      wire::decode_page_table(head.batch, head.table, entry->region.range.count, context_.agreed));
  // The region's size is the peer's word, the memory is this host's.
  const std::size_t mapped = context_.pages.mapped(entry->region.id).size();
  if (mapped != 0 && mapped != entry->region.range.bytes()) {
    return make_error(ErrorCode::kInternal, "region " + to_text(entry->region.id) + " has " +
                                                std::to_string(entry->region.range.bytes()) +
                                                " bytes at the source and " +
                                                std::to_string(mapped) + " here")
        .advise("please report it: the guest's host should have refused it");
  }
  for (std::size_t i = 0; i < table.size(); ++i) MIGRATE_TRY(mark_seen(*entry, table[i]));
  MIGRATE_TRY(lane.decoder.apply(*lane.channel, head.batch, table, *entry, context_.idle_max));
  static_cast<PageCounts&>(lane.arrivals) += lane.decoder.take_counts();
  lane.arrivals.cpu += thread_cpu() - cpu;
  return {};
}

Status BulkReceivers::mark_seen(const PageLedger::Entry& entry, const wire::PageEntry& pages) {
  SeenBits& seen = *seen_.at(entry.handle);
  for (std::uint64_t page = pages.first; page < pages.first + pages.count; ++page) {
    const std::uint64_t bit = std::uint64_t{1} << (page % 64);
    if ((seen[page / 64].fetch_or(bit, std::memory_order_relaxed) & bit) != 0) {
      return make_error(ErrorCode::kProtocol,
                        page_text(entry, page) + " came twice in round " + std::to_string(round_));
    }
  }
  return {};
}

bool BulkReceivers::came(const wire::PageReference& page) const {
  const auto seen = seen_.find(page.region.number);
  if (seen == seen_.end()) return false;
  const std::uint64_t word = (*seen->second)[page.page / 64].load(std::memory_order_relaxed);
  return (word >> (page.page % 64) & 1) != 0;
}

Status BulkReceivers::stand_at_barrier(Lane& lane, const wire::Barrier& barrier) {
  if (barrier.round != round_ || barrier.pages != lane.arrivals.carried ||
      barrier.digest_change != lane.arrivals.digest_change) {
    return make_error(barrier.round != round_ ? ErrorCode::kProtocol : ErrorCode::kIntegrity,
                      "a lane's barrier of round " + std::to_string(barrier.round) +
                          " does not fit what the lane carried in round " + std::to_string(round_))
        .advise("send again; if it happens twice, please report it");
  }
  lane.barrier = barrier;
  lane.arrivals.wire_bytes = lane.channel->received_bytes() - lane.bytes_before;
  lane.bytes_before = lane.channel->received_bytes();
  MutexLock lock(mutex_);
  ++standing_;
  changed_.notify_all();
  const std::uint64_t passes = passes_;
  while (passes_ == passes && !stopping_) changed_.wait(mutex_);
  return {};
}

Result<BulkArrivals> BulkReceivers::wait_for_barrier(std::uint32_t round, bool final) {
  MIGRATE_CHECK(round == round_);
  std::uint64_t heard = context_.heard.load(std::memory_order_relaxed);
  auto heard_at = SteadyClock::now();
  while (!all_stand(SteadyClock::now() + RecordChannel::alive_period(context_.idle_max))) {
    const auto now = SteadyClock::now();
    // All that is still to come is in the source's sockets by now. What the source says elsewhere
    // brings none of it; a lane that works here is not waited for by its silence.
    if (working_ > 0 || heard != context_.heard.load(std::memory_order_relaxed)) {
      heard = context_.heard.load(std::memory_order_relaxed);
      heard_at = now;
    } else if (now - heard_at >= context_.idle_max) {
      return make_error(ErrorCode::kTimeout,
                        "the source fell silent before the end of round " + std::to_string(round));
    }
    if (context_.on_wait) MIGRATE_TRY(context_.on_wait());
  }
  MutexLock lock(mutex_);
  if (error_) return *error_;
  BulkArrivals arrivals;
  for (auto& lane : lanes_) {
    if (lane->barrier.final != final) {
      return make_error(ErrorCode::kProtocol, "the lanes disagree on which round is the last");
    }
    arrivals += lane->arrivals;
    arrivals.wire_bytes += lane->arrivals.wire_bytes;
    arrivals.cpu += lane->arrivals.cpu;
    lane->arrivals = {};
  }
  return arrivals;
}

Result<std::vector<std::unique_ptr<RecordChannel>>> BulkReceivers::release_lanes() {
  const auto until = SteadyClock::now() + context_.idle_max;
  while (!all_left(SteadyClock::now() + RecordChannel::alive_period(context_.idle_max))) {
    if (SteadyClock::now() >= until) {
      return make_error(ErrorCode::kTimeout,
                        "the source fell silent before its last lane was done");
    }
    if (context_.on_wait) MIGRATE_TRY(context_.on_wait());
  }
  std::vector<std::unique_ptr<RecordChannel>> channels;
  {
    MutexLock lock(mutex_);
    if (error_) return *error_;
    stopping_ = true;
  }
  for (auto& lane : lanes_) {
    if (lane->thread.joinable()) lane->thread.join();
    channels.push_back(std::move(lane->channel));
  }
  lanes_.clear();
  return channels;
}

/// Or there is no use in waiting.
bool BulkReceivers::all_left(SteadyClock::time_point until) {
  MutexLock lock(mutex_);
  while (left_ < lanes_.size() && !error_) {
    if (!changed_.wait_until(mutex_, until)) return false;
  }
  return true;
}

/// Or there is no use in waiting.
bool BulkReceivers::all_stand(SteadyClock::time_point until) {
  MutexLock lock(mutex_);
  while (standing_ < lanes_.size() && !error_) {
    if (!changed_.wait_until(mutex_, until)) return false;
  }
  return true;
}

void BulkReceivers::pass_barrier() {
  ++round_;
  reset_seen();
  MutexLock lock(mutex_);
  standing_ = 0;
  ++passes_;
  changed_.notify_all();
}

void BulkReceivers::reset_seen() {
  std::unordered_map<std::uint32_t, std::unique_ptr<SeenBits>> fresh;
  for (const auto& entry : context_.ledger.entries()) {
    const std::size_t words = (entry->region.range.count + 63) / 64;
    auto kept = seen_.find(entry->handle);
    if (kept != seen_.end()) {
      for (auto& word : *kept->second) word.store(0, std::memory_order_relaxed);
      fresh.emplace(entry->handle, std::move(kept->second));
    } else {
      fresh.emplace(entry->handle, std::make_unique<SeenBits>(words));
    }
  }
  seen_ = std::move(fresh);
}

}  // namespace migrate
