#include "tests/dirtylog/contract/own_memory_beds.hpp"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "migrate/trackers.hpp"
#include "tests/dirtylog/contract/own_memory.hpp"

namespace migrate::testing {
namespace {

/// The word of each page that touch() and put() write; the writers have those from 1 on.
constexpr std::size_t kTouchWord = 8;
constexpr std::uint64_t kPagesAHuge = 512;

class OwnMemoryBed final : public TrackerBed {
 public:
  explicit OwnMemoryBed(std::unique_ptr<OwnMemory> memory) : memory_(std::move(memory)) {}

  std::shared_ptr<SoftwareBitmap> mark_writes() {
    std::vector<Region> regions;
    for (const MappedRegion& mapped : memory_->mapped_regions()) regions.push_back(mapped.region);
    marks_ = make_software_bitmap(regions);
    return marks_;
  }
  void track_with(std::shared_ptr<DirtyTracker> tracker) { tracker_ = std::move(tracker); }
  void report_by(std::uint64_t granularity) { granularity_ = granularity; }
  void add_writers(std::uint64_t seed);

  PageSource& pages() override { return hashed_ ? *hashed_ : *memory_; }
  Result<ReadOutcome> truth(const RegionId& region, PageRange range,
                            std::span<std::byte> into) override {
    return memory_->read(region, range, into);
  }
  [[nodiscard]] std::span<const PageRange> areas() const override { return memory_->areas(); }
  [[nodiscard]] std::uint64_t granularity() const override { return granularity_; }
  [[nodiscard]] bool peeks() const override { return hashed_ == nullptr; }

  void touch(PageRange pages) override {
    for (GuestPage page = pages.first; page < pages.end(); page = page + 1) {
      std::uint64_t& word = touch_word(page);
      ++word;
    }
    if (marks_) marks_->mark(0, pages);
  }
  bool put(GuestPage page, std::uint64_t value) override {
    touch_word(page) = value;
    if (marks_) marks_->mark(0, {page, 1});
    return true;
  }

  [[nodiscard]] std::span<const std::unique_ptr<Writer>> writers() const override {
    return writers_;
  }
  void for_each_logged(PageRange pages,
                       const std::function<void(const LoggedWord&)>& f) const override {
    for (const auto& writer : writers_) {
      static_cast<const ThreadWriter&>(*writer).for_each_logged(pages, f);
    }
  }

 private:
  std::uint64_t& touch_word(GuestPage page) {
    return reinterpret_cast<std::uint64_t*>(memory_->at(page))[kTouchWord];
  }

  std::unique_ptr<OwnMemory> memory_;
  std::unique_ptr<PageSource> hashed_;  ///< What the content hash has memory read through.
  std::shared_ptr<SoftwareBitmap> marks_;
  std::uint64_t granularity_ = 1;
  std::vector<std::unique_ptr<Writer>> writers_;
};

void OwnMemoryBed::add_writers(std::uint64_t seed) {
  const auto add = [&](std::string_view name, PutAll put) {
    if (marks_) {
      put = followed_by(std::move(put), [marks = marks_](GuestPage page) {
        marks->mark(0, {page, 1});
      });
    }
    const std::size_t word = 1 + writers_.size();
    writers_.push_back(
        std::make_unique<ThreadWriter>(name, memory_->placed(), word, std::move(put), seed + word));
  };
  add("stores", by_stores());
  add("read(2)", by_read());
  add("process_vm_writev(2)", by_process_vm_writev(::getpid()));
}

using Tracking = std::function<Status(OwnMemoryBed& bed, const OwnMemory& memory)>;

BedKind kind_of(const char* name, MemoryKind memory_kind, const Tracking& track) {
  return {name, [=](std::span<const std::uint64_t> area_pages, std::uint64_t seed) -> MadeBed {
            auto memory = std::make_unique<OwnMemory>(memory_kind, area_pages);
            if (!memory->why_not().empty()) return {nullptr, memory->why_not()};
            const OwnMemory& placed = *memory;
            auto bed = std::make_unique<OwnMemoryBed>(std::move(memory));
            if (Status tracked = track(*bed, placed); !tracked) {
              return {nullptr, tracked.error().to_text()};
            }
            bed->add_writers(seed);
            return {std::move(bed), ""};
          }};
}

Status track_by_marks(OwnMemoryBed& bed, const OwnMemory&) {
  bed.track_with(bed.mark_writes());
  return {};
}

}  // namespace

std::vector<BedKind> own_memory_bed_kinds() {
  return {
      kind_of("Marks", MemoryKind::kMemfd, track_by_marks),
  };
}

}  // namespace migrate::testing
