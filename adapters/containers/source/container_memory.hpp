// ContainerMemory: the memory of a process tree that the engine moves: what CRIU restores lazily.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "adapters/containers/criu/hidden_areas.hpp"
#include "adapters/containers/source/process_tree.hpp"
#include "adapters/containers/tree_state.hpp"
#include "base/mutex.hpp"
#include "migrate/memory.hpp"
#include "migrate/process_memory.hpp"

namespace migrate::containers {

/// One program of one process of the tree: a process that replaces its program (execve) becomes
/// another member.
struct TreeMember {
  TreeProcess process;
  std::uint32_t space = 0;
  std::shared_ptr<ProcessMemory> memory;
  bool had_regions = false;
};

/// An address space a member, numbered as they come; no number is used again. What has gone is an
/// ended set of regions, no error.
///
/// All but read() by one thread at a time; read() concurrently.
class ContainerMemory final : public PageSource {
 public:
  using Lister = std::function<std::vector<TreeProcess>()>;
  /// `list` gives the tree's processes as they are now.
  explicit ContainerMemory(Lister list) : list_(std::move(list)) {}

  /// Looks who is there: opens the memory of the new ones and lets go of those that are gone.
  Status follow();
  [[nodiscard]] std::span<const TreeMember> members() const { return members_; }

  /// Looks at everybody's mappings.
  Status refresh();
  /// From now on, until let_change(), nothing is looked at any more.
  void hold() { held_ = true; }
  void let_change() { held_ = false; }
  /// Of every region the exact place, but for the main stacks': CRIU has to see where they end.
  [[nodiscard]] std::vector<HiddenArea> areas() const;
  /// What holds nothing, as of the latest look.
  [[nodiscard]] std::vector<EmptyArea> empty_areas() const;
  /// Whose memory each address space is.
  Result<std::vector<SpaceOwner>> owners() const;

  Result<std::vector<Region>> regions() override;
  Result<ReadOutcome> read(const RegionId& region, PageRange range,
                           std::span<std::byte> into) override;
  std::span<const std::byte> mapped(const RegionId&) override { return {}; }
  Status holes(const RegionId& region, PageBitmap& holes) override;

 private:
  Status add(const TreeProcess& process);
  void publish() MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] std::shared_ptr<ProcessMemory> memory_of(std::uint32_t space) const
      MIGRATE_EXCLUDES(mutex_);

  const Lister list_;
  std::vector<TreeMember> members_;
  std::uint32_t next_space_ = 0;
  bool held_ = false;

  mutable Mutex mutex_;
  std::map<std::uint32_t, std::shared_ptr<ProcessMemory>> readable_ MIGRATE_GUARDED_BY(mutex_);
};

}  // namespace migrate::containers
