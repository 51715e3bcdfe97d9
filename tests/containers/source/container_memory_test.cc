// The memory of a tree that forks, maps and unmaps while its writes are collected: what a target
// would have after the last collect is what the processes have.
#include "adapters/containers/source/container_memory.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "adapters/containers/source/container_tracker.hpp"
#include "adapters/containers/tree_cgroup.hpp"
#include "memory/process_maps.hpp"
#include "tests/containers/source/busy_tree.hpp"

namespace migrate::containers {
namespace {

using Page = std::vector<std::byte>;
std::chrono::steady_clock::time_point soon() {
  return std::chrono::steady_clock::now() + std::chrono::seconds(60);
}

/// What the engine and its target do, without a wire.
class Copy {
 public:
  Copy(PageSource& pages, DirtyTracker& tracker) : pages_(pages), tracker_(tracker) {}

  void round() {
    PageBitmap written(regions_);
    const Status collected = tracker_.collect(written);
    ASSERT_TRUE(collected) << collected.error().to_text();
    auto now = pages_.regions();
    ASSERT_TRUE(now) << now.error().to_text();
    // What is new is dirty as a whole; what is gone is dropped.
    written.reshape(*now, true);
    regions_ = *now;
    std::erase_if(content_, [&](const auto& one) { return written.find(one.first) == nullptr; });
    for (const Region& region : regions_) {
      content_[region.id].resize(region.range.bytes());
    }
    written.for_each_run([&](const RegionId& id, PageRange run) { take(id, run); });
  }
  [[nodiscard]] const std::vector<Region>& regions() const { return regions_; }
  [[nodiscard]] const Page& of(const RegionId& id) const { return content_.at(id); }

 private:
  void take(const RegionId& id, PageRange run) {
    const Region& region = *std::find_if(regions_.begin(), regions_.end(),
                                         [&](const Region& one) { return one.id == id; });
    auto into =
        std::span(content_[id]).subspan((run.first - region.range.first) * kPageSize, run.bytes());
    const auto outcome = pages_.read(id, run, into);
    ASSERT_TRUE(outcome) << outcome.error().to_text();
  }

  PageSource& pages_;
  DirtyTracker& tracker_;
  std::vector<Region> regions_;
  std::map<RegionId, Page> content_;
};

class ContainerMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "reading other processes' memory needs root";
  }
};

/// Pages of `mapping` that are there, as /proc/PID/pagemap says.
bool has_content(pid_t pid, std::uint64_t page) {
  const std::string path = "/proc/" + std::to_string(pid) + "/pagemap";
  const Fd pagemap(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::uint64_t entry = 0;
  EXPECT_EQ(::pread(pagemap.get(), &entry, sizeof(entry), static_cast<off_t>(page * 8)), 8);
  return (entry >> 62) != 0;
}

void expect_process_is_copied(const TreeMember& member, const Copy& copy) {
  const pid_t pid = member.process.pid;
  const std::string folder = "/proc/" + std::to_string(pid) + "/";
  const auto mappings = parse_process_maps(read_proc(folder + "maps").value());
  ASSERT_TRUE(mappings);
  const auto locked = locked_areas_of(read_proc(folder + "smaps").value());
  const Fd memory(::open((folder + "mem").c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(memory.valid());
  Page page(kPageSize);
  std::size_t pages = 0;
  for (const ProcessMapping& mapping : *mappings) {
    const bool ours = belongs_to_process(mapping) && filled_lazily(mapping, locked);
    for (std::uint64_t number = mapping.begin / kPageSize; number < mapping.end / kPageSize;
         ++number) {
      const auto region =
          std::find_if(copy.regions().begin(), copy.regions().end(), [&](const Region& one) {
            return one.id.space == member.space && one.range.contains(GuestPage{number});
          });
      const bool known = region != copy.regions().end();
      if (!ours) {
        ASSERT_FALSE(known) << mapping.name << " is not the engine's";
        continue;
      }
      if (!known) {
        ASSERT_FALSE(has_content(pid, number)) << "page " << number << " of " << pid << " is lost";
        continue;
      }
      const auto at = static_cast<off_t>(number * kPageSize);
      ASSERT_EQ(::pread(memory.get(), page.data(), page.size(), at),
                static_cast<ssize_t>(page.size()));
      const auto& content = copy.of(region->id);
      const std::size_t offset = (GuestPage{number} - region->range.first) * kPageSize;
      ASSERT_EQ(std::memcmp(page.data(), content.data() + offset, kPageSize), 0)
          << "page " << number << " of process " << pid << " in region " << to_text(region->id)
          << " (" << mapping.name << ")";
      ++pages;
    }
  }
  EXPECT_GT(pages, 0U);
}

TEST_F(ContainerMemoryTest, CopyIsWhatTheTreeHasAfterTheLastCollect) {
  for (const unsigned seed : {1U, 2U, 3U}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    BusyTree tree(seed);
    auto group = TreeCgroup::of_tree(tree.root());
    ASSERT_TRUE(group) << group.error().to_text();
    bool stands = false;
    ContainerMemory memory([&] { return list_descendants(tree.root()); });
    ContainerTracker tracker(
        memory, TrackerKind::kProcessWriteProtect, [&] { return stands; }, [] {});
    const Status started = tracker.start();
    if (!started && started.error().code == ErrorCode::kUnsupported) {
      GTEST_SKIP() << started.error().to_text();
    }
    ASSERT_TRUE(started) << started.error().to_text();
    Copy copy(memory, tracker);
    const std::uint64_t forks = tree.forks();
    for (int round = 0; round < 20 || tree.forks() < forks + 3; ++round) {
      ASSERT_LT(round, 100000) << "the tree does not fork";
      ASSERT_NO_FATAL_FAILURE(copy.round());
    }
    ASSERT_TRUE((*group)->freeze(true, soon()));
    stands = true;
    ASSERT_NO_FATAL_FAILURE(copy.round());
    memory.hold();
    std::set<pid_t> copied;
    for (const TreeMember& member : memory.members()) {
      ASSERT_NO_FATAL_FAILURE(expect_process_is_copied(member, copy));
      copied.insert(member.process.pid);
    }
    for (const TreeProcess& process : list_descendants(tree.root())) {
      EXPECT_TRUE(process.zombie || copied.contains(process.pid)) << process.pid;
    }
    const auto owners = memory.owners();
    ASSERT_TRUE(owners);
    EXPECT_EQ(owners->size(), copied.size());
    for (const HiddenArea& area : memory.areas()) EXPECT_TRUE(copied.contains(area.pid));
  }
}

TEST_F(ContainerMemoryTest, HeldMemoryIsNotLookedAtAgain) {
  BusyTree tree(9);
  ContainerMemory memory([&] { return list_descendants(tree.root()); });
  ASSERT_TRUE(memory.follow());
  auto before = memory.regions();
  ASSERT_TRUE(before);
  before = memory.regions();
  memory.hold();
  const std::uint64_t forks = tree.forks();
  while (tree.forks() < forks + 2) ::usleep(1000);
  const auto after = memory.regions();
  ASSERT_TRUE(after);
  EXPECT_EQ(*after, *before);
}

TEST_F(ContainerMemoryTest, LockedAndSharedMemoryIsLeftToCriu) {
  const std::size_t bytes = 16 * kPageSize;
  const auto map = [&](int flags) {
    void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(at, MAP_FAILED);
    std::memset(at, 1, bytes);
    return GuestAddr{reinterpret_cast<std::uint64_t>(at)};
  };
  const GuestAddr plain = map(MAP_PRIVATE);
  const GuestAddr shared = map(MAP_SHARED);
  const GuestAddr locked = map(MAP_PRIVATE);
  // Not mlock(), which the address sanitizer makes do nothing.
  ASSERT_EQ(::syscall(SYS_mlock, locked.value, bytes), 0);
  ContainerMemory memory([] { return std::vector<TreeProcess>{*look_at_process(::getpid())}; });
  ASSERT_TRUE(memory.follow());
  const auto regions = memory.regions();
  ASSERT_TRUE(regions);
  const auto known = [&](GuestAddr address) {
    return std::any_of(regions->begin(), regions->end(),
                       [&](const Region& region) { return region.range.contains(address.page()); });
  };
  EXPECT_TRUE(known(plain));
  EXPECT_FALSE(known(shared));
  EXPECT_FALSE(known(locked));
  for (const HiddenArea& area : memory.areas()) {
    EXPECT_FALSE(area.begin <= locked.value && locked.value < area.end);
  }
  for (const GuestAddr at : {plain, shared, locked}) {
    ::munmap(reinterpret_cast<void*>(at.value), bytes);
  }
}

}  // namespace
}  // namespace migrate::containers
