#include <utility>

#include "migrate/trackers.hpp"

namespace migrate {
namespace {

class CompositeTracker final : public DirtyTracker {
 public:
  CompositeTracker(std::unique_ptr<DirtyTracker> primary, std::shared_ptr<SoftwareBitmap> told)
      : primary_(std::move(primary)), told_(std::move(told)) {
    MIGRATE_CHECK(primary_ != nullptr && told_ != nullptr);
  }

  [[nodiscard]] std::string_view name() const override { return primary_->name(); }
  [[nodiscard]] DirtyCoverage covers() const override {
    const DirtyCoverage a = primary_->covers();
    const DirtyCoverage b = told_->covers();
    return {.guest_cpu = a.guest_cpu || b.guest_cpu,
            .kernel = a.kernel || b.kernel,
            .vmm = a.vmm || b.vmm,
            .pinned = a.pinned || b.pinned};
  }
  /// The bitmap of marks needs no re-arming, so the primary's answer holds for both.
  [[nodiscard]] bool rearms_in_collect() const override { return primary_->rearms_in_collect(); }

  Status start() override {
    MIGRATE_TRY(told_->start());
    return primary_->start();
  }
  Status collect(PageBitmap& round_set) override {
    // Reading marks cannot fail, and takes them: it comes when nothing can go wrong any more.
    MIGRATE_TRY(primary_->collect(round_set));
    return told_->collect(round_set);
  }
  Status rearm(const PageBitmap& set, const RegionId& region, PageRange range) override {
    return primary_->rearm(set, region, range);
  }
  Status peek(PageBitmap& again) override {
    MIGRATE_TRY(primary_->peek(again));
    return told_->peek(again);
  }
  Status stop() override {
    MIGRATE_TRY(told_->stop());
    return primary_->stop();
  }

 private:
  std::unique_ptr<DirtyTracker> primary_;
  std::shared_ptr<SoftwareBitmap> told_;
};

}  // namespace

std::unique_ptr<DirtyTracker> make_composite_tracker(std::unique_ptr<DirtyTracker> primary,
                                                     std::shared_ptr<SoftwareBitmap> told) {
  return std::make_unique<CompositeTracker>(std::move(primary), std::move(told));
}

}  // namespace migrate
