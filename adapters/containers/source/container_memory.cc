#include "adapters/containers/source/container_memory.hpp"

#include <algorithm>
#include <utility>

namespace migrate::containers {
namespace {

bool same_process(const TreeProcess& a, const TreeProcess& b) {
  return a.pid == b.pid && a.start_time == b.start_time;
}

/// The memory that was opened is that of a program that has been replaced, by `now`.
bool is_replaced(TreeMember& member, const TreeProcess& now) {
  const bool has_regions = !member.memory->known_regions().empty();
  member.had_regions |= has_regions;
  // The kernel places each program's stack anew, unless that is switched off.
  return now.stack != member.process.stack || (member.had_regions && !has_regions);
}

}  // namespace

Status ContainerMemory::add(const TreeProcess& process) {
  auto memory = ProcessMemory::open(process.pid, next_space_, ProcessMappings::kLazilyFilled);
  if (!memory) {
    // It has ended since it was listed, or is about to: then it has no stack any more.
    const bool gone = memory.error().code == ErrorCode::kNotFound;
    const auto now = look_at_process(process.pid);
    if (gone || !now || now->zombie || now->stack == 0 || !same_process(*now, process)) return {};
    return std::move(memory).error();
  }
  members_.push_back({process, next_space_++, *std::move(memory), false});
  return {};
}

Status ContainerMemory::follow() {
  if (held_) return {};
  std::vector<TreeProcess> now = list_();
  std::erase_if(now, [](const TreeProcess& process) { return process.zombie; });
  const std::size_t before = members_.size();
  std::erase_if(members_, [&](const TreeMember& member) {
    return std::none_of(now.begin(), now.end(), [&](const TreeProcess& process) {
      return same_process(process, member.process);
    });
  });
  bool changed = members_.size() != before;
  for (const TreeProcess& process : now) {
    const auto known = std::find_if(members_.begin(), members_.end(), [&](const TreeMember& one) {
      return same_process(one.process, process);
    });
    if (known != members_.end()) {
      if (!is_replaced(*known, process)) continue;
      members_.erase(known);
    }
    MIGRATE_TRY(add(process));
    changed = true;
  }
  if (changed) publish();
  return {};
}

void ContainerMemory::publish() {
  std::map<std::uint32_t, std::shared_ptr<ProcessMemory>> readable;
  for (const TreeMember& member : members_) readable.emplace(member.space, member.memory);
  const MutexLock lock(mutex_);
  readable_ = std::move(readable);
}

std::shared_ptr<ProcessMemory> ContainerMemory::memory_of(std::uint32_t space) const {
  const MutexLock lock(mutex_);
  const auto found = readable_.find(space);
  return found == readable_.end() ? nullptr : found->second;
}

Result<std::vector<Region>> ContainerMemory::regions() {
  std::vector<Region> all;
  if (!held_) {
    for (const TreeMember& member : members_) {
      MIGRATE_TRY(member.memory->regions());
    }
    MIGRATE_TRY(follow());
  }
  for (const TreeMember& member : members_) {
    const std::vector<Region> some = member.memory->known_regions();
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

Status ContainerMemory::refresh() {
  MIGRATE_TRY(follow());
  for (const TreeMember& member : members_) {
    MIGRATE_TRY(member.memory->refresh());
  }
  return {};
}

std::vector<EmptyArea> ContainerMemory::empty_areas() const {
  std::vector<EmptyArea> areas;
  for (const TreeMember& member : members_) {
    for (const PageRange& range : member.memory->empty_areas()) {
      areas.push_back(
          {member.space, range.first.number * kPageSize, range.end().number * kPageSize});
    }
  }
  return areas;
}

std::vector<HiddenArea> ContainerMemory::areas() const {
  std::vector<HiddenArea> areas;
  for (const TreeMember& member : members_) {
    for (const Region& region : member.memory->known_regions()) {
      for (const ProcessMapping& mapping : member.memory->mappings(region.id)) {
        if (mapping.name == "[stack]") continue;
        areas.push_back({member.process.pid, mapping.begin, mapping.end});
      }
    }
  }
  return areas;
}

Result<std::vector<SpaceOwner>> ContainerMemory::owners() const {
  std::vector<SpaceOwner> owners;
  for (const TreeMember& member : members_) {
    MIGRATE_ASSIGN(const pid_t pid, number_in_tree(member.process.pid));
    owners.push_back({member.space, pid});
  }
  return owners;
}

Result<ReadOutcome> ContainerMemory::read(const RegionId& region, PageRange range,
                                          std::span<std::byte> into) {
  const auto memory = memory_of(region.space);
  return memory == nullptr ? ReadOutcome::kGone : memory->read(region, range, into);
}

Status ContainerMemory::holes(const RegionId& region, PageBitmap& holes) {
  const auto memory = memory_of(region.space);
  return memory == nullptr ? Status() : memory->holes(region, holes);
}

}  // namespace migrate::containers
