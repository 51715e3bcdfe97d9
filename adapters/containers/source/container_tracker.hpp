// ContainerTracker: the written pages of a process tree, by a tracker a process.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adapters/containers/source/container_memory.hpp"
#include "migrate/dirty_tracker.hpp"
#include "migrate/tracker_choice.hpp"

namespace migrate::containers {

/// A tracker for each member of the tree's memory: begun when the member is found, dropped with it.
/// A process that cannot be tracked counts as written whole, and is tried again.
class ContainerTracker final : public DirtyTracker {
 public:
  /// `kind`: kProcessWriteProtect or kSoftDirty. `memory` must outlive this. `stands` says whether
  /// the tree stands: then nothing is begun, for CRIU traces it. `looked` is called after each look
  /// at a tree that runs.
  ContainerTracker(ContainerMemory& memory, TrackerKind kind, std::function<bool()> stands,
                   std::function<void()> looked)
      : memory_(memory), kind_(kind), stands_(std::move(stands)), looked_(std::move(looked)) {}

  [[nodiscard]] std::string_view name() const override { return to_string(kind_); }
  [[nodiscard]] DirtyCoverage covers() const override {
    return {.guest_cpu = true, .kernel = true, .vmm = true};
  }
  Status start() override;
  Status collect(PageBitmap& round_set) override;
  Status rearm(const PageBitmap&, const RegionId&, PageRange) override { return {}; }
  [[nodiscard]] bool rearms_in_collect() const override { return true; }
  Status peek(PageBitmap& again) override;
  [[nodiscard]] std::vector<std::uint64_t> written_by_vcpu() const override { return {}; }
  Status stop() override;

 private:
  /// Begins tracking `member`; the error says why it cannot be.
  Status begin(const TreeMember& member);
  /// Ends the trackers of members that are no more.
  void drop_gone();
  Status collect_member(const TreeMember& member, PageBitmap& round_set);

  ContainerMemory& memory_;
  const TrackerKind kind_;
  const std::function<bool()> stands_;
  const std::function<void()> looked_;
  bool started_ = false;
  std::map<std::uint32_t, std::unique_ptr<DirtyTracker>> trackers_;  ///< By address space.
};

}  // namespace migrate::containers
