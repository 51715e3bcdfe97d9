#include "adapters/containers/source/container_tracker.hpp"

#include <set>
#include <utility>

#include "base/log.hpp"
#include "migrate/trackers.hpp"

namespace migrate::containers {
namespace {

/// Adds all pages of a member that `set` has.
void add_whole(const TreeMember& member, PageBitmap& set) {
  for (const Region& region : member.memory->known_regions()) {
    if (set.find(region.id) != nullptr) set.set(region.id, region.range);
  }
}

}  // namespace

Status ContainerTracker::begin(const TreeMember& member) {
  auto tracker = kind_ == TrackerKind::kSoftDirty
                     ? make_soft_dirty_tracker(member.memory)
                     : make_process_write_protect_tracker(member.memory);
  if (!tracker) return std::move(tracker).error();
  MIGRATE_TRY((*tracker)->start());
  trackers_[member.space] = *std::move(tracker);
  return {};
}

Status ContainerTracker::start() {
  if (started_) return make_error(ErrorCode::kBusy, "the tree's writes are being tracked already");
  MIGRATE_TRY(memory_.follow());
  for (const TreeMember& member : memory_.members()) {
    const Status begun = begin(member);
    // One that has ended meanwhile leaves the tree at the next look.
    if (begun || begun.error().code == ErrorCode::kNotFound) continue;
    trackers_.clear();
    return begun;
  }
  started_ = true;
  looked_();
  return {};
}

Status ContainerTracker::collect_member(const TreeMember& member, PageBitmap& round_set) {
  if (const auto tracker = trackers_.find(member.space); tracker != trackers_.end()) {
    // Soft-dirty stops the process for it, which nobody can where it is traced by CRIU.
    const Status collected = tracker->second->collect(round_set);
    if (collected) return {};
    if (!stands_() || collected.error().code != ErrorCode::kBusy) return collected;
    MIGRATE_TRY(member.memory->refresh());
    add_whole(member, round_set);
    return {};
  }
  if (!stands_()) {
    if (const Status begun = begin(member); !begun) {
      log_line(LogLevel::kDebug,
               "a process of the tree is not tracked for now: " + begun.error().to_text());
      MIGRATE_TRY(member.memory->refresh());
    }
  } else {
    MIGRATE_TRY(member.memory->refresh());
  }
  // Nobody saw what was written to it so far.
  add_whole(member, round_set);
  return {};
}

void ContainerTracker::drop_gone() {
  std::map<std::uint32_t, std::unique_ptr<DirtyTracker>> kept;
  for (const TreeMember& member : memory_.members()) {
    if (auto found = trackers_.extract(member.space)) kept.insert(std::move(found));
  }
  trackers_ = std::move(kept);
}

Status ContainerTracker::collect(PageBitmap& round_set) {
  if (!started_) {
    return make_error(ErrorCode::kInvalidArgument, "collect from a tracker that was not started");
  }
  std::set<std::uint32_t> done;
  // Who replaced its program is found by the look that collects it: a second pass takes the new
  // one.
  for (int pass = 0; pass < 2; ++pass) {
    MIGRATE_TRY(memory_.follow());
    drop_gone();
    for (const TreeMember& member : memory_.members()) {
      if (!done.insert(member.space).second) continue;
      MIGRATE_TRY(collect_member(member, round_set));
    }
  }
  if (!stands_()) looked_();
  return {};
}

Status ContainerTracker::peek(PageBitmap& again) {
  for (const TreeMember& member : memory_.members()) {
    const auto tracker = trackers_.find(member.space);
    if (tracker == trackers_.end()) {
      add_whole(member, again);
      continue;
    }
    const Status looked = tracker->second->peek(again);
    if (!looked && looked.error().code != ErrorCode::kNotFound) return looked;
  }
  return {};
}

Status ContainerTracker::stop() {
  for (auto& [space, tracker] : trackers_) (void)tracker->stop();
  trackers_.clear();
  started_ = false;
  return {};
}

}  // namespace migrate::containers
