#include "postcopy/lazy_receivers.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/guarded.hpp"
#include "base/start_thread.hpp"

namespace migrate::postcopy {
namespace {

/// The bulk lanes' threads, against the urgent one's and the guest: with fewer processors than
/// threads, who brings what somebody waits for goes first.
constexpr int kBulkNice = 10;

void yield_to_others() {
  // Nice values are a thread's on Linux. To be less urgent everybody may.
  const int now = ::getpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()));
  (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), std::min(now + kBulkNice, 19));
}

}  // namespace

struct LazyReceivers::Lane {
  Lane(std::unique_ptr<RecordChannel> record_channel, bool is_urgent,
       PageInstaller::Context installing)
      : channel(std::move(record_channel)), urgent(is_urgent), installer(installing) {}
  std::unique_ptr<RecordChannel> channel;
  const bool urgent;
  PageInstaller installer;
  std::thread thread;
};

LazyReceivers::LazyReceivers(std::vector<std::unique_ptr<RecordChannel>> bulk,
                             std::unique_ptr<RecordChannel> urgent, Context context)
    : context_(std::move(context)) {
  bulk.insert(bulk.begin(), std::move(urgent));
  heard_ = context_.heard.load();
  for (auto& channel : bulk) {
    channel->set_agreed({});
    channel->set_heard(context_.heard);
    channel->set_mid_record_idle(context_.idle_max);
    lanes_.push_back(std::make_unique<Lane>(
        std::move(channel), lanes_.empty(),
        PageInstaller::Context{context_.memory, context_.pager, context_.digest, context_.counts}));
  }
}

Status LazyReceivers::start() {
  for (auto& lane : lanes_) {
    MIGRATE_TRY(start_thread(lane->thread, "mig-lazy-recv", [this, raw = lane.get()] {
      if (!raw->urgent) yield_to_others();
      run(*raw);
    }));
  }
  return {};
}

LazyReceivers::~LazyReceivers() { stop(); }

RecordChannel& LazyReceivers::urgent() { return *lanes_.front()->channel; }

void LazyReceivers::shut_down() {
  stopping_ = true;
  for (auto& lane : lanes_) lane->channel->channel().shutdown();
}

void LazyReceivers::stop() {
  shut_down();
  for (auto& lane : lanes_) {
    if (lane->thread.joinable()) lane->thread.join();
  }
}

void LazyReceivers::run(Lane& lane) {
  Status served = guarded([&] { return serve(lane); });
  if (!served && !stopping_) context_.on_failure(std::move(served).error());
}

Status LazyReceivers::serve(Lane& lane) {
  const nanoseconds look = RecordChannel::alive_period(context_.idle_max);
  for (;;) {
    auto record = lane.channel->receive(lane.urgent ? look : context_.idle_max);
    if (!record) {
      // A quiet lane is no failure, unless somebody waits for it.
      if (record.error().code != ErrorCode::kTimeout) return std::move(record).error();
    } else if (record->header.type == wire::RecordType::kPages) {
      MIGRATE_TRY(apply(lane, record->header));
    } else {
      return RecordChannel::unexpected(*record, wire::RecordType::kPages);
    }
    if (lane.urgent) MIGRATE_TRY(check_answers(look));
  }
}

Status LazyReceivers::apply(Lane& lane, const wire::RecordHeader& header) {
  MIGRATE_ASSIGN(const auto head, lane.channel->receive_batch_head(header, context_.idle_max));
  const std::uint32_t handle = head.batch.region.number;
  LazyRange* const range = context_.memory.find(context_.ledger.find(handle));
  if (range == nullptr) {
    return make_error(ErrorCode::kProtocol,
                      "pages of region handle " + std::to_string(handle) + ", which is not known");
  }
  if (head.batch.round != context_.round) {
    return make_error(ErrorCode::kProtocol, "pages of round " + std::to_string(head.batch.round) +
                                                " in round " + std::to_string(context_.round));
  }
  MIGRATE_ASSIGN(const auto table, wire::decode_page_table(head.batch, head.table, range->pages));
  MIGRATE_ASSIGN(const auto outcome,
                 lane.installer.apply(*lane.channel, table, *range, context_.idle_max));
  if (outcome.complete) context_.on_last_page();
  context_.demands.send(outcome.again);
  return {};
}

/// Until the guest may wait a silent source must not hold up who waits, whatever else it says;
/// afterwards it may be slow, but not silent altogether.
Status LazyReceivers::check_answers(nanoseconds period) {
  const auto now = SteadyClock::now();
  if (now - checked_at_ < period) return {};
  checked_at_ = now;
  const std::uint64_t heard = context_.heard.load(std::memory_order_relaxed);
  if (heard != heard_) {
    heard_ = heard;
    heard_at_ = now;
  }
  const auto oldest = context_.pager.oldest_wait();
  if (!oldest) return {};
  const auto since = context_.pager.may_wait() ? std::max({*oldest, begun_, heard_at_})
                                               : std::max(*oldest, begun_);
  if (now - since < context_.idle_max) return {};
  return make_error(ErrorCode::kTimeout,
                    urgent().channel().peer() + " does not send a page that was asked for");
}

}  // namespace migrate::postcopy
