// How a VM's writes are tracked: the tracker that was asked for, or the best there is.
#pragma once

#include <memory>
#include <optional>

#include "migrate/kvm.hpp"
#include "migrate/tracker_choice.hpp"

namespace migrate::kvm {

struct Tracking {
  std::unique_ptr<DirtyTracker> tracker;
  /// Not null: the guest's memory has to be read through this.
  std::unique_ptr<PageSource> pages;
};

/// As KvmSourceOptions::tracking says. `memory`, the VM's slots, must outlive what is made.
/// kUnsupported for a kind that this VM or host cannot offer, with those that are possible.
Result<Tracking> make_tracking(const KvmVm& vm, PageSource& memory,
                               std::optional<TrackerKind> wanted);

}  // namespace migrate::kvm
