// How a guest's memory comes before it starts: read, mapped, or watched until it is touched.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "base/guarded.hpp"
#include "checkpoint/mapped_fill.hpp"
#include "checkpoint/restore_impl.hpp"

namespace migrate {
namespace {

using checkpoint::EagerFigures;
using checkpoint::ImageStreamReader;
using checkpoint::PagesPart;
using std::chrono::duration;

}  // namespace

Status Restore::Impl::fill_memory() {
  if (options_.stream >= 0) return fill_from_stream();
  switch (options_.mode) {
    case RestoreMode::kEager:
      return fill_eagerly(checkpoint::all_parts(chain_->regions()));
    case RestoreMode::kMapped:
      return map_memory();
    case RestoreMode::kLazy:
      return begin_lazily();
  }
  return make_error(ErrorCode::kInvalidArgument, "there is no such way to restore");
}

Status Restore::Impl::fill_eagerly(const std::vector<PagesPart>& parts) {
  const checkpoint::EagerContext context{
      .chain = chain_,
      .pages = guest_->pages(),
      .lanes = options_.lanes,
      .stop = stop_,
      .on_progress = [this](std::uint64_t pages) { show_progress(pages); }};
  MIGRATE_ASSIGN(const EagerFigures figures, checkpoint::fill_eagerly(context, parts));
  report_.bytes.file += figures.file_bytes;
  report_.cpu_s += duration<double>(figures.cpu).count();
  if (options_.mode == RestoreMode::kMapped) return {};
  report_.pages.stored = figures.filled - std::min(figures.filled, report_.pages.duplicate);
  report_.pages.zero = figures.zero;
  // The index was checked part by part: that it is of this image as a whole is seen here only.
  const bool equal = figures.digest == chain_->top().directory().digest;
  report_.digest = equal ? "equal" : "unequal";
  if (equal) return {};
  return make_error(ErrorCode::kIntegrity, "the memory of " + options_.path +
                                               " has another digest than its directory says")
      .advise("check the image (migrate image verify), and take another one");
}

Status Restore::Impl::map_memory() {
  if (Status can = checkpoint::check_mappable(guest_->pages(), chain_->regions()); !can) {
    refused_ = true;
    return can;
  }
  MIGRATE_ASSIGN(const auto plan, checkpoint::plan_mapping(*chain_, stop_));
  MIGRATE_TRY(checkpoint::map_runs(*chain_, guest_->pages(), plan.runs));
  report_.pages.mapped = plan.pages;
  return fill_eagerly(plan.rest);
}

/// A stream's first bytes may be long in coming.
Status Restore::Impl::open_stream() {
  if (!cancelled_) return make_error(ErrorCode::kIo, "cannot create an eventfd");
  MIGRATE_ASSIGN(stream_, ImageStreamReader::create(options_.stream, cancelled_->fd()));
  report_.id = to_text(stream_->header().id);
  const MutexLock lock(mutex_);
  reading_ = stream_.get();
  if (stop_.load()) reading_->interrupt();
  return {};
}

Status Restore::Impl::fill_from_stream() {
  PageSink& pages = guest_->pages();
  const auto& regions = description().guest.regions;
  const auto place = [&](std::uint16_t region, std::uint64_t page) {
    return PageRange{regions[region].range.first + page, 1};
  };
  ImageStreamReader::Memory memory;
  memory.write = [&](std::uint16_t region, std::uint64_t page, const std::byte* content) {
    const auto mapped = pages.mapped(regions[region].id);
    if (mapped.empty()) {
      return pages.write(regions[region].id, place(region, page), {content, kPageSize});
    }
    std::memcpy(mapped.data() + page * kPageSize, content, kPageSize);
    return Status();
  };
  memory.read = [&](std::uint16_t region, std::uint64_t page, std::byte* into) {
    return pages.read(regions[region].id, place(region, page), {into, kPageSize});
  };
  memory.zero = [&](std::uint16_t region, std::uint64_t page) {
    return pages.zero(regions[region].id, place(region, page));
  };
  MIGRATE_ASSIGN(auto end, stream_->read_all(memory));
  {
    const MutexLock lock(mutex_);
    reading_ = nullptr;
  }
  stream_state_ = std::move(end.state);
  report_.pages.stored = end.directory.pages.stored;
  report_.pages.zero = end.directory.pages.zero;
  report_.pages.duplicate = end.directory.pages.duplicate;
  report_.bytes.file = end.bytes;
  report_.digest = "equal";
  return {};
}

Status Restore::Impl::begin_lazily() {
  checkpoint::LazyRestore::Options options;
  options.record = !options_.record.empty();
  options.threads = checkpoint::reading_threads(options_.lanes);
  if (!options_.prefetch.empty()) {
    auto set = checkpoint::WorkingSet::open(options_.prefetch, *chain_);
    if (set) {
      options.prefetch = *std::move(set);
    } else if (set.error().code == ErrorCode::kIntegrity) {
      say("prefetch-damaged", set.error().to_text(), Phase::kFinalPages);
    } else {
      refused_ = set.error().code == ErrorCode::kIncompatible;
      return std::move(set).error();
    }
  }
  auto made = checkpoint::LazyRestore::create(chain_, guest_->pages(), std::move(options));
  if (!made) {
    refused_ = made.error().code == ErrorCode::kUnsupported;
    return std::move(made).error();
  }
  lazy_ = *std::move(made);
  const MutexLock lock(mutex_);
  waking_ = lazy_.get();
  if (stop_.load()) lazy_->give_up();
  return {};
}

}  // namespace migrate
