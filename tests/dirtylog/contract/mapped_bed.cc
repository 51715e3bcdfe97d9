#include "tests/dirtylog/contract/mapped_bed.hpp"

#include <unistd.h>

#include <cstring>
#include <stdexcept>
#include <utility>

namespace migrate::testing {
namespace {

/// The word of each page that touch() and put() write. Guests have word 0, threads those between.
constexpr std::size_t kTouchWord = 8;

}  // namespace

std::byte* MappedPages::at(GuestPage page) const {
  for (const MappedRegion& mapped : mapped_) {
    const PageRange range = mapped.region.range;
    if (range.contains(page)) return mapped.address + (page - range.first) * kPageSize;
  }
  throw std::out_of_range("no such page");
}

Result<std::vector<Region>> MappedPages::regions() {
  std::vector<Region> regions;
  for (const MappedRegion& mapped : mapped_) regions.push_back(mapped.region);
  return regions;
}

Result<ReadOutcome> MappedPages::read(const RegionId&, PageRange range, std::span<std::byte> into) {
  std::memcpy(into.data(), at(range.first), range.bytes());
  return ReadOutcome::kRead;
}

std::span<const std::byte> MappedPages::mapped(const RegionId& region) {
  for (const MappedRegion& mapped : mapped_) {
    if (mapped.region.id == region) {
      return {mapped.address, static_cast<std::size_t>(mapped.region.range.bytes())};
    }
  }
  return {};
}

MappedBed::MappedBed(const std::vector<MappedRegion>& regions, std::size_t skip)
    : memory_(regions) {
  for (const MappedRegion& area : std::span(regions).subspan(skip)) {
    placed_.push_back({area.region.range, area.address});
    areas_.push_back(area.region.range);
  }
}

std::shared_ptr<SoftwareBitmap> MappedBed::mark_own_writes() {
  marks_ = make_software_bitmap(*memory_.regions());
  return marks_;
}

void MappedBed::track_by_content() {
  ContentHashTracking tracking = make_content_hash_tracking(memory_);
  tracker_ = std::move(tracking.tracker);
  hashed_ = std::move(tracking.pages);
}

void MappedBed::add_thread_writers(std::uint64_t seed) {
  add_writer("stores", placed_, by_stores(), seed);
  add_writer("read(2)", placed_, by_read(), seed);
  add_writer("process_vm_writev(2)", placed_, by_process_vm_writev(::getpid()), seed);
}

void MappedBed::add_alias_writer(std::span<std::byte* const> addresses, std::uint64_t seed) {
  std::vector<PlacedArea> aliases = placed_;
  for (std::size_t i = 0; i < aliases.size(); ++i) aliases[i].address = addresses[i];
  add_writer("stores through another mapping", std::move(aliases), by_stores(), seed);
}

void MappedBed::add_writer(std::string_view name, std::vector<PlacedArea> areas, PutAll put,
                           std::uint64_t seed) {
  if (marks_) {
    put = followed_by(std::move(put), [marks = marks_](GuestPage page) {
      marks->mark(0, {page, 1});
    });
  }
  const std::size_t word = 1 + logs_.size();
  auto writer =
      std::make_unique<ThreadWriter>(name, std::move(areas), word, std::move(put), seed + word);
  logs_.push_back(writer.get());
  writers_.push_back(std::move(writer));
}

void MappedBed::touch(PageRange pages, std::uint64_t stride) {
  for (GuestPage page = pages.first; page < pages.end(); page = page + stride) {
    ++touch_word(page);
    if (marks_) marks_->mark(0, {page, 1});
  }
}

void MappedBed::put(PageRange pages, std::uint64_t value) {
  for (GuestPage page = pages.first; page < pages.end(); page = page + 1) touch_word(page) = value;
  if (marks_) marks_->mark(0, pages);
}

std::uint64_t& MappedBed::touch_word(GuestPage page) {
  return reinterpret_cast<std::uint64_t*>(memory_.at(page))[kTouchWord];
}

void MappedBed::for_each_logged(PageRange pages,
                                const std::function<void(const LoggedWord&)>& f) const {
  for (const ThreadWriter* writer : logs_) writer->for_each_logged(pages, f);
}

}  // namespace migrate::testing
