#include "postcopy/source_lanes.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include "base/guarded.hpp"
#include "base/start_thread.hpp"

namespace migrate::postcopy {
namespace {

using SteadyClock = std::chrono::steady_clock;

// Who pushes makes room for who serves a guest that waits: a tenth of its share of a busy
// processor. Needs no privilege.
constexpr int kPushNice = 10;

}  // namespace

SourceLanes::SourceLanes(const LazySource::Context& context, SourceWork& work,
                         std::vector<std::unique_ptr<RecordChannel>> bulk,
                         std::unique_ptr<RecordChannel> urgent, std::uint32_t round)
    : context_(context),
      work_(work),
      bulk_(std::move(bulk)),
      urgent_(std::move(urgent)),
      round_(round),
      pace_({context.capacity_bytes_per_s, work.limit()}, bulk_.size(), SteadyClock::now()) {
  MIGRATE_CHECK(urgent_ != nullptr && !bulk_.empty());
}

Status SourceLanes::start() {
  work_.begin();
  threads_.resize(bulk_.size() + 1);
  MIGRATE_TRY(start_thread(threads_[0], "mig-page-serve", [this] { serve(); }));
  for (std::size_t i = 0; i < bulk_.size(); ++i) {
    MIGRATE_TRY(start_thread(threads_[i + 1], "mig-push", [this, i] { push(i); }));
  }
  return {};
}

SourceLanes::~SourceLanes() {
  // First, so that no lane gives its channel's end for the reason.
  work_.stop();
  for (const auto& lane : bulk_) lane->channel().shutdown();
  urgent_->channel().shutdown();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

PageSender::Context SourceLanes::sending() const {
  return {context_.pages, context_.digest, context_.idle_max, round_};
}

void SourceLanes::fail(Error error) {
  if (!work_.fail(std::move(error))) return;
  // Not shut: the other side would take it for a link that broke, before it hears why.
  for (const auto& lane : bulk_) lane->channel().interrupt();
  urgent_->channel().interrupt();
  if (context_.on_failure) context_.on_failure();
}

void SourceLanes::serve() {
  Status served = guarded([&]() -> Status {
    PageSender sender(sending(), *urgent_);
    for (;;) MIGRATE_TRY(serve_next(sender));
  });
  fail(std::move(served).error());
}

Status SourceLanes::serve_next(PageSender& sender) {
  auto record = urgent_->receive(context_.idle_max);
  // A guest that has what it needs is silent for as long as it likes.
  if (!record && record.error().code == ErrorCode::kTimeout) return {};
  if (!record) return std::move(record).error();
  if (record->header.type != wire::RecordType::kDemand) {
    return RecordChannel::unexpected(*record, wire::RecordType::kDemand);
  }
  MIGRATE_ASSIGN(const wire::Demand demand, wire::decode<wire::Demand>(record->body));
  return answer(demand, sender);
}

Status SourceLanes::answer(const wire::Demand& demand, PageSender& sender) {
  if (!work_.has_stood()) {
    return make_error(ErrorCode::kProtocol, "pages are demanded of a guest that still runs here");
  }
  for (const wire::Demand::Pages& pages : demand.wanted) {
    MIGRATE_TRY(check(pages));
    const SourceRegion& region = *work_.find(pages.region);
    const PushOrder::Run run{pages.first, pages.count};
    MIGRATE_TRY(sender.send(region, {&run, 1}));
    // After it, for nobody waits for the books.
    work_.note_served(region, run, sender.take_counts());
  }
  return {};
}

Status SourceLanes::check(const wire::Demand::Pages& pages) const {
  const auto refused = [&](const std::string& why) {
    return make_error(ErrorCode::kProtocol, urgent_->channel().peer() + " demands " +
                                                std::to_string(pages.count) + " pages from " +
                                                std::to_string(pages.first) + " of region handle " +
                                                std::to_string(pages.region.number) + ", " + why);
  };
  const SourceRegion* const region = work_.find(pages.region);
  if (region == nullptr) return refused("which there is not");
  const std::uint64_t all = region->entry->region.range.count;
  if (pages.count == 0 || pages.count > wire::kBatchEntriesMax || pages.first >= all ||
      pages.count > all - pages.first) {
    return refused("which has " + std::to_string(all));
  }
  const std::uint64_t end = pages.first + pages.count;
  if (pages.first % region->granule != 0 || (end % region->granule != 0 && end != all)) {
    return refused("which goes in units of " + std::to_string(region->granule));
  }
  return {};
}

void SourceLanes::push(std::size_t lane) {
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kPushNice);
  Status pushed = guarded([&] { return push_all(lane); });
  if (!pushed) fail(std::move(pushed).error());
}

Status SourceLanes::push_all(std::size_t lane) {
  RecordChannel& channel = *bulk_[lane];
  PageSender sender(sending(), channel);
  PushOrder::Batch batch;
  bool hungry = true;
  pace_.note(lane, channel.channel(), 0, hungry, SteadyClock::now());
  while (work_.next(pace_.pages_at_once(), batch, hungry)) {
    MIGRATE_TRY(sender.send(work_.region(batch.region), batch.runs));
    const SentCounts counts = sender.take_counts();
    pace_.note(lane, channel.channel(), counts.wire_bytes, hungry, SteadyClock::now());
    if (!work_.note_pushed(counts)) break;
  }
  return {};
}

}  // namespace migrate::postcopy
