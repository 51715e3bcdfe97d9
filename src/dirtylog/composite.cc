#include <algorithm>
#include <utility>

#include "migrate/trackers.hpp"

namespace migrate {
namespace {

/// Empty, with the regions of `like`; without allocating where it has them already.
void clear_like(PageBitmap& set, const PageBitmap& like) {
  const bool same = std::equal(
      set.segments().begin(), set.segments().end(), like.segments().begin(), like.segments().end(),
      [](const auto& mine, const auto& other) { return mine.region == other.region; });
  if (same) {
    set.clear_all();
  } else {
    set = PageBitmap(like.regions());
  }
}

class Union final : public CompositeTracker {
 public:
  explicit Union(std::vector<std::shared_ptr<DirtyTracker>> parts) {
    MIGRATE_CHECK(!parts.empty());
    for (auto& tracker : parts) {
      MIGRATE_CHECK(tracker != nullptr);
      parts_.push_back({std::move(tracker), {}, 0});
    }
  }

  [[nodiscard]] std::string_view name() const override { return parts_.front().tracker->name(); }
  [[nodiscard]] DirtyCoverage covers() const override;
  [[nodiscard]] bool rearms_in_collect() const override {
    return std::all_of(parts_.begin(), parts_.end(),
                       [](const Part& part) { return part.tracker->rearms_in_collect(); });
  }
  [[nodiscard]] std::vector<std::uint64_t> written_by_vcpu() const override {
    return parts_.front().tracker->written_by_vcpu();
  }
  [[nodiscard]] std::vector<Count> counts() const override;

  Status start() override;
  Status collect(PageBitmap& round_set) override;
  Status rearm(const PageBitmap& set, const RegionId& region, PageRange range) override;
  Status peek(PageBitmap& again) override;
  Status stop() override;

 private:
  struct Part {
    std::shared_ptr<DirtyTracker> tracker;
    PageBitmap taken;  ///< By the collect under way or the latest one.
    std::uint64_t pages = 0;
  };
  void keep(const PageBitmap& taken);

  std::vector<Part> parts_;
  PageBitmap kept_;  ///< Taken by collects that failed later on.
};

DirtyCoverage Union::covers() const {
  DirtyCoverage all;
  for (const Part& part : parts_) {
    const DirtyCoverage one = part.tracker->covers();
    all.guest_cpu |= one.guest_cpu;
    all.kvm |= one.kvm;
    all.kernel |= one.kernel;
    all.vmm |= one.vmm;
    all.other_mappings |= one.other_mappings;
    all.pinned |= one.pinned;
  }
  return all;
}

std::vector<CompositeTracker::Count> Union::counts() const {
  std::vector<Count> counts;
  for (const Part& part : parts_) counts.push_back({part.tracker->name(), part.pages});
  return counts;
}

Status Union::start() {
  kept_ = PageBitmap();
  for (Part& part : parts_) {
    if (Status started = part.tracker->start(); !started) {
      (void)stop();
      return started;
    }
  }
  return {};
}

Status Union::collect(PageBitmap& round_set) {
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    clear_like(parts_[i].taken, round_set);
    if (Status collected = parts_[i].tracker->collect(parts_[i].taken); !collected) {
      for (std::size_t done = 0; done < i; ++done) keep(parts_[done].taken);
      return collected;
    }
  }
  for (Part& part : parts_) {
    part.pages = part.taken.count();
    round_set.merge(part.taken);
  }
  kept_.hand_over(round_set);
  return {};
}

void Union::keep(const PageBitmap& taken) {
  std::vector<Region> regions = kept_.regions();
  for (const auto& segment : taken.segments()) {
    if (kept_.find(segment.region.id) == nullptr) regions.push_back(segment.region);
  }
  kept_.reshape(regions, false);
  kept_.merge(taken);
}

Status Union::rearm(const PageBitmap& set, const RegionId& region, PageRange range) {
  for (Part& part : parts_) {
    if (!part.tracker->rearms_in_collect()) MIGRATE_TRY(part.tracker->rearm(set, region, range));
  }
  return {};
}

Status Union::peek(PageBitmap& again) {
  for (Part& part : parts_) MIGRATE_TRY(part.tracker->peek(again));
  return {};
}

Status Union::stop() {
  Status result;
  for (Part& part : parts_) {
    Status stopped = part.tracker->stop();
    if (!stopped && result) result = std::move(stopped);
  }
  return result;
}

}  // namespace

std::unique_ptr<CompositeTracker> make_composite_tracker(
    std::vector<std::shared_ptr<DirtyTracker>> parts) {
  return std::make_unique<Union>(std::move(parts));
}

}  // namespace migrate
