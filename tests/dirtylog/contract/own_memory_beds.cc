#include "tests/dirtylog/contract/own_memory_beds.hpp"

#include <utility>

#include "tests/dirtylog/contract/mapped_bed.hpp"
#include "tests/dirtylog/contract/own_memory.hpp"

namespace migrate::testing {
namespace {

class OwnMemoryBed final : public MappedBed {
 public:
  explicit OwnMemoryBed(std::unique_ptr<OwnMemory> memory)
      : MappedBed(memory->areas()), memory_(std::move(memory)) {}
  ~OwnMemoryBed() override {
    // Both need the memory, which goes before the base class does.
    writers_.clear();
    tracker_.reset();
  }
  OwnMemoryBed(const OwnMemoryBed&) = delete;
  OwnMemoryBed& operator=(const OwnMemoryBed&) = delete;

  [[nodiscard]] OwnMemory& memory() { return *memory_; }

 private:
  std::unique_ptr<OwnMemory> memory_;
};

using Tracking = Status (*)(OwnMemoryBed& bed, std::uint64_t seed);

BedKind kind_of(const char* name, MemoryKind memory_kind, Tracking track) {
  return {name, [=](std::span<const std::uint64_t> area_pages, std::uint64_t seed) -> MadeBed {
            auto memory = std::make_unique<OwnMemory>(memory_kind, area_pages);
            if (!memory->why_not().empty()) return {nullptr, memory->why_not()};
            auto bed = std::make_unique<OwnMemoryBed>(std::move(memory));
            if (Status tracked = track(*bed, seed); !tracked) {
              return {nullptr, tracked.error().to_text()};
            }
            bed->add_thread_writers(seed);
            return {std::move(bed), ""};
          }};
}

Status track_by_marks(OwnMemoryBed& bed, std::uint64_t seed) {
  bed.track_with(bed.mark_own_writes());
  bed.add_alias_writer(bed.memory().map_again(), seed);
  return {};
}

Status track_by_write_protection(OwnMemoryBed& bed, std::uint64_t) {
  MIGRATE_ASSIGN(auto tracker, make_write_protect_tracker(bed.memory().areas()));
  bed.track_with(std::move(tracker));
  return {};
}

Status track_by_content(OwnMemoryBed& bed, std::uint64_t) {
  bed.track_by_content();
  return {};
}

/// Huge pages are reported whole.
Status track_huge_by_write_protection(OwnMemoryBed& bed, std::uint64_t seed) {
  bed.report_by(OwnMemory::kPagesAHuge);
  return track_by_write_protection(bed, seed);
}

/// Writes through another mapping are not seen; marked, they are.
Status track_by_write_protection_and_marks(OwnMemoryBed& bed, std::uint64_t seed) {
  MIGRATE_TRY(track_by_write_protection(bed, seed));
  bed.wrap_tracker([&](std::shared_ptr<DirtyTracker> writes) -> std::shared_ptr<DirtyTracker> {
    return make_composite_tracker({std::move(writes), bed.mark_own_writes()});
  });
  bed.add_alias_writer(bed.memory().map_again(), seed);
  return {};
}

}  // namespace

std::vector<BedKind> own_memory_bed_kinds() {
  return {
      kind_of("Marks", MemoryKind::kMemfd, track_by_marks),
      kind_of("WriteProtectAnonymous", MemoryKind::kAnonymous, track_by_write_protection),
      kind_of("WriteProtectMemfd", MemoryKind::kMemfd, track_by_write_protection),
      kind_of("WriteProtectHugePages", MemoryKind::kHugePages, track_huge_by_write_protection),
      kind_of("WriteProtectHugetlb", MemoryKind::kHugetlb, track_huge_by_write_protection),
      kind_of("ContentHash", MemoryKind::kAnonymous, track_by_content),
      kind_of("WriteProtectAndMarks", MemoryKind::kMemfd, track_by_write_protection_and_marks),
  };
}

}  // namespace migrate::testing
