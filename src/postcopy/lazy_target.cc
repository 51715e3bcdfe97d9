#include "postcopy/lazy_target.hpp"

#include <atomic>
#include <utility>

#include "base/guarded.hpp"
#include "base/mutex.hpp"
#include "postcopy/demand_lane.hpp"
#include "postcopy/fault_threads.hpp"
#include "postcopy/lazy_memory.hpp"
#include "postcopy/lazy_receivers.hpp"
#include "postcopy/page_installer.hpp"
#include "postcopy/pager.hpp"

namespace migrate::postcopy {

class LazyTarget::Impl {
 public:
  Impl(Context context, std::unique_ptr<LazyMemory> memory)
      : context_(std::move(context)),
        memory_(std::move(memory)),
        pager_(*memory_),
        demands_(context_.idle_max) {}
  ~Impl() { detach(); }

  Status start();
  Status attach(std::vector<std::unique_ptr<RecordChannel>> bulk,
                std::unique_ptr<RecordChannel> urgent, std::uint32_t round);
  void detach();
  [[nodiscard]] std::optional<Error> failure() MIGRATE_EXCLUDES(mutex_);

  [[nodiscard]] std::vector<wire::LazyTerms::Granule> granules() const;
  [[nodiscard]] PageBitmap missing() const;
  [[nodiscard]] PageBitmap take_installed();
  [[nodiscard]] TargetFigures figures();
  [[nodiscard]] Pager& pager() { return pager_; }
  void forbid() { memory_->forbid(); }
  void end_news() MIGRATE_EXCLUDES(news_mutex_);

 private:
  bool serve(std::span<const PageFault> faults);
  void fail(Error error) MIGRATE_EXCLUDES(mutex_);
  void tell_news() MIGRATE_EXCLUDES(news_mutex_);
  /// A set with `word_of(range, index)` as its words.
  template <typename WordOf>
  [[nodiscard]] PageBitmap pages_by(WordOf&& word_of) const;

  Context context_;
  std::unique_ptr<LazyMemory> memory_;
  Pager pager_;
  DemandLane demands_;
  InstallCounts counts_;
  std::atomic<std::uint64_t> heard_{0};
  Mutex mutex_;
  std::optional<Error> error_ MIGRATE_GUARDED_BY(mutex_);
  Mutex news_mutex_;  // Held during a call of on_news.
  bool news_ended_ MIGRATE_GUARDED_BY(news_mutex_) = false;
  std::unique_ptr<LazyReceivers> receivers_;
  std::unique_ptr<FaultThreads> threads_;  // End first, before the registration is taken back.
};

Status LazyTarget::Impl::start() {
  MIGRATE_ASSIGN(threads_, FaultThreads::start(
                               memory_->userfault(),
                               [this](std::span<const PageFault> faults) { return serve(faults); },
                               [this](std::span<const PageFault> faults) {
                                 for (const PageFault& fault : faults) {
                                   const std::uint64_t page = fault.address / kPageSize * kPageSize;
                                   memory_->userfault().wake({page, page + kPageSize});
                                 }
                               }));
  return {};
}

bool LazyTarget::Impl::serve(std::span<const PageFault> faults) {
  const auto now = SteadyClock::now();
  std::vector<wire::Demand::Pages> demands;
  Status served;
  const Status noted = guarded([&]() -> Status {
    demands.reserve(faults.size());
    for (const PageFault& fault : faults) {
      Status one = pager_.fault(fault, now, demands);
      if (!one) served = std::move(one);
    }
    return {};
  });
  demands_.send(demands);
  if (!noted) served = noted.error();
  if (served) return true;
  fail(std::move(served).error());
  return false;
}

Status LazyTarget::Impl::attach(std::vector<std::unique_ptr<RecordChannel>> bulk,
                                std::unique_ptr<RecordChannel> urgent, std::uint32_t round) {
  MIGRATE_CHECK(receivers_ == nullptr && urgent != nullptr);
  if (pager_.given_up()) {
    return make_error(ErrorCode::kCancelled,
                      "this memory was given up: it may have been read as zeros");
  }
  {
    const MutexLock lock(mutex_);
    error_.reset();
  }
  receivers_ = std::make_unique<LazyReceivers>(
      std::move(bulk), std::move(urgent),
      LazyReceivers::Context{.memory = *memory_,
                             .pager = pager_,
                             .ledger = context_.ledger,
                             .digest = context_.digest,
                             .counts = counts_,
                             .demands = demands_,
                             .idle_max = context_.idle_max,
                             .round = round,
                             .heard = heard_,
                             .on_failure = [this](Error error) { fail(std::move(error)); },
                             .on_last_page = [this] { tell_news(); }});
  demands_.set_channel(&receivers_->urgent());
  if (Status started = receivers_->start(); !started) {
    detach();
    return started;
  }
  // Once faults can be sent: one that is noted from now on is sent by who notes it.
  demands_.send(pager_.waited_for());
  return {};
}

void LazyTarget::Impl::detach() {
  if (receivers_ == nullptr) return;
  receivers_->shut_down();
  demands_.set_channel(nullptr);
  receivers_->stop();
  receivers_.reset();
  if (pager_.may_wait()) return;
  {
    const MutexLock lock(mutex_);
    if (!error_) error_ = make_error(ErrorCode::kCancelled, "the lanes were taken away");
  }
  pager_.give_up();
}

std::optional<Error> LazyTarget::Impl::failure() {
  const MutexLock lock(mutex_);
  return error_;
}

void LazyTarget::Impl::fail(Error error) {
  {
    const MutexLock lock(mutex_);
    // A source that has sent all may go.
    const bool done = pager_.missing_pages() == 0 && counts_.arrived.load() > 0;
    if (error_ || done) return;
    error_ = std::move(error);
  }
  pager_.give_up();
  tell_news();
}

void LazyTarget::Impl::tell_news() {
  const MutexLock lock(news_mutex_);
  if (!news_ended_) context_.on_news();
}

void LazyTarget::Impl::end_news() {
  const MutexLock lock(news_mutex_);
  news_ended_ = true;
}

std::vector<wire::LazyTerms::Granule> LazyTarget::Impl::granules() const {
  std::vector<wire::LazyTerms::Granule> granules;
  for (const auto& entry : context_.ledger.entries()) {
    const LazyRange* const range = memory_->find(entry.get());
    if (range == nullptr || range->granule == 1) continue;
    granules.push_back(
        {wire::RegionHandle{entry->handle}, static_cast<std::uint32_t>(range->granule)});
  }
  return granules;
}

template <typename WordOf>
PageBitmap LazyTarget::Impl::pages_by(WordOf&& word_of) const {
  PageBitmap pages(context_.ledger.regions());
  for (const auto& range : memory_->ranges()) {
    PageBitmap::Segment* const segment = pages.find(range->entry->region.id);
    for (std::size_t i = 0; i < segment->words.size(); ++i) segment->words[i] = word_of(*range, i);
  }
  return pages;
}

PageBitmap LazyTarget::Impl::missing() const {
  return pages_by([](const LazyRange& range, std::size_t i) {
    return range.states.once.word(i) & ~range.states.here.word(i);
  });
}

PageBitmap LazyTarget::Impl::take_installed() {
  return pages_by([](LazyRange& range, std::size_t i) { return range.states.fresh.take_word(i); });
}

TargetFigures LazyTarget::Impl::figures() {
  const FaultTimes times = pager_.times();
  TargetFigures figures;
  figures.faults = times.count();
  figures.local_faults = pager_.local_faults();
  figures.fault_p50_us = times.quantile_us(0.50);
  figures.fault_p99_us = times.quantile_us(0.99);
  figures.fault_max_us = times.max_us();
  figures.stall_us_by_thread = times.stall_us_by_thread();
  figures.arrived = counts_.arrived.load();
  figures.twice = counts_.twice.load();
  figures.refetched = counts_.refetched.load();
  figures.wire_bytes = heard_.load();
  return figures;
}

LazyTarget::LazyTarget(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LazyTarget::~LazyTarget() = default;

Status LazyTarget::possible(PageSink& pages, std::span<const Region> regions) {
  return guarded([&] { return LazyMemory::possible(pages, regions); });
}

Result<std::unique_ptr<LazyTarget>> LazyTarget::create(Context context) {
  return guarded([&]() -> Result<std::unique_ptr<LazyTarget>> {
    MIGRATE_ASSIGN(auto memory, LazyMemory::create(context.pages, context.ledger));
    auto impl = std::make_unique<Impl>(std::move(context), std::move(memory));
    MIGRATE_TRY(impl->start());
    return std::unique_ptr<LazyTarget>(new LazyTarget(std::move(impl)));
  });
}

std::vector<wire::LazyTerms::Granule> LazyTarget::granules() const { return impl_->granules(); }

Status LazyTarget::miss(const PageBitmap& set) { return impl_->pager().miss(set); }

Status LazyTarget::attach(std::vector<std::unique_ptr<RecordChannel>> bulk,
                          std::unique_ptr<RecordChannel> urgent, std::uint32_t round) {
  return guarded([&] { return impl_->attach(std::move(bulk), std::move(urgent), round); });
}

void LazyTarget::detach() { impl_->detach(); }
void LazyTarget::forbid() {
  if (!complete()) impl_->forbid();
}
void LazyTarget::end_news() { impl_->end_news(); }
std::optional<Error> LazyTarget::failure() { return impl_->failure(); }
void LazyTarget::guest_may_wait() { impl_->pager().guest_may_wait(); }
bool LazyTarget::complete() const { return missing_pages() == 0; }
std::uint64_t LazyTarget::missing_pages() const { return impl_->pager().missing_pages(); }
PageBitmap LazyTarget::missing() const { return impl_->missing(); }
PageBitmap LazyTarget::take_installed() { return impl_->take_installed(); }
TargetFigures LazyTarget::figures() const { return impl_->figures(); }

}  // namespace migrate::postcopy
