#include "postcopy/source_work.hpp"

#include <algorithm>
#include <utility>

namespace migrate::postcopy {
namespace {

// What a lane that slept too long may catch up on: some wake-ups of a loaded host.
constexpr std::chrono::milliseconds kBurst{5};

std::uint64_t lesser(std::uint64_t one, std::uint64_t other) {
  if (one == 0 || other == 0) return std::max(one, other);
  return std::min(one, other);
}

std::vector<SourceRegion> regions_of(const LazySource::Context& context,
                                     const LazySource::Work& work) {
  std::vector<SourceRegion> regions;
  for (const auto& entry : context.ledger.entries()) {
    SourceRegion region{entry.get(), 1, context.pages.mapped(entry->region.id)};
    MIGRATE_CHECK(region.mapped.empty() || region.mapped.size() == entry->region.range.bytes());
    for (const wire::LazyTerms::Granule& granule : work.granules) {
      if (granule.region.number == entry->handle) region.granule = granule.pages;
    }
    regions.push_back(region);
  }
  return regions;
}

std::vector<PushOrder::Part> parts_of(const std::vector<SourceRegion>& regions) {
  std::vector<PushOrder::Part> parts;
  for (const SourceRegion& region : regions) {
    parts.push_back({region.entry->region, region.granule});
  }
  return parts;
}

void add(SourceFigures& figures, const SentCounts& counts) {
  figures.raw += counts.raw;
  figures.zero += counts.zero;
  figures.wire_bytes += counts.wire_bytes;
  figures.cpu += counts.cpu;
}

}  // namespace

SourceWork::SourceWork(const LazySource::Context& context, const LazySource::Work& work)
    : regions_(regions_of(context, work)),
      limiter_(lesser(context.bandwidth_bytes_per_s, context.push_bandwidth_bytes_per_s), kBurst),
      order_(parts_of(regions_), context.push_order),
      stands_(work.stands) {
  MutexLock lock(mutex_);
  order_.set_missing(work.missing);
  order_.set_first(work.first);
  order_.set_recent(work.recent);
}

const SourceRegion* SourceWork::find(wire::RegionHandle handle) const {
  const auto found = std::lower_bound(regions_.begin(), regions_.end(), handle.number,
                                      [](const SourceRegion& region, std::uint32_t number) {
                                        return region.entry->handle < number;
                                      });
  return found != regions_.end() && found->entry->handle == handle.number ? &*found : nullptr;
}

void SourceWork::set_missing(const PageBitmap& missing) {
  MutexLock lock(mutex_);
  order_.set_missing(missing);
}

void SourceWork::stands(const PageBitmap& missing) {
  MutexLock lock(mutex_);
  order_.set_missing(missing);
  stands_ = true;
}

void SourceWork::lead(const PageBitmap& first) {
  MutexLock lock(mutex_);
  order_.set_first(first);
  news_.notify_all();
}

bool SourceWork::has_stood() const {
  MutexLock lock(mutex_);
  return stands_;
}

void SourceWork::open() {
  MutexLock lock(mutex_);
  order_.open();
  news_.notify_all();
}

void SourceWork::begin() {
  MutexLock lock(mutex_);
  ended_ = false;
  error_.reset();
}

void SourceWork::stop() {
  MutexLock lock(mutex_);
  ended_ = true;
  news_.notify_all();
}

std::uint64_t SourceWork::left() const {
  MutexLock lock(mutex_);
  return order_.left();
}

SourceFigures SourceWork::figures() const {
  MutexLock lock(mutex_);
  return figures_;
}

bool SourceWork::next(std::uint64_t pages_max, PushOrder::Batch& batch, bool& waited) {
  MutexLock lock(mutex_);
  waited = false;
  while (!ended_) {
    if (order_.next(pages_max, batch)) return true;
    waited = true;
    news_.wait(mutex_);
  }
  return false;
}

bool SourceWork::note_pushed(const SentCounts& counts) {
  const Time now = std::chrono::steady_clock::now();
  // Booked when it has left, so that nothing is claimed for long that a demand may overtake.
  const Time until = now + limiter_.reserve(counts.wire_bytes, now);
  MutexLock lock(mutex_);
  figures_.pushed += counts.raw + counts.zero;
  add(figures_, counts);
  while (!ended_ && until > now && news_.wait_until(mutex_, until)) {
  }
  return !ended_;
}

void SourceWork::note_served(const SourceRegion& region, PushOrder::Run run,
                             const SentCounts& counts) {
  MutexLock lock(mutex_);
  order_.fault(static_cast<std::size_t>(&region - regions_.data()), run);
  figures_.demanded += run.count;
  add(figures_, counts);
}

bool SourceWork::fail(Error error) {
  MutexLock lock(mutex_);
  // Told to end, or another lane was first.
  if (ended_) return false;
  error_ = std::move(error);
  ended_ = true;
  news_.notify_all();
  return true;
}

std::optional<Error> SourceWork::failure() const {
  MutexLock lock(mutex_);
  return error_;
}

}  // namespace migrate::postcopy
