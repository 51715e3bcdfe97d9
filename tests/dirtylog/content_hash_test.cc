// Tracking by content: on real memory, read as a migration reads it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "migrate/trackers.hpp"

namespace migrate {
namespace {

using Pages = std::set<std::uint64_t>;

/// Regions of memfds with holes, mapped here. `hidden`: read() is the only way to the memory.
class MemfdMemory final : public PageSource {
 public:
  explicit MemfdMemory(bool hidden) : hidden_(hidden) {}
  ~MemfdMemory() override {
    for (Part& part : parts_) ::munmap(part.base, part.region.range.bytes());
  }
  MemfdMemory(const MemfdMemory&) = delete;
  MemfdMemory& operator=(const MemfdMemory&) = delete;

  Region add(std::uint32_t id, std::uint64_t first, std::uint64_t pages,
             std::uint32_t generation = 0) {
    Part part;
    part.region = {{0, id, generation}, {{first}, pages}, Backing::kMemfd};
    const std::size_t bytes = part.region.range.bytes();
    part.memfd = Fd(::memfd_create("content-hash-test", MFD_CLOEXEC));
    if (::ftruncate(part.memfd.get(), static_cast<off_t>(bytes)) != 0) throw_errno("ftruncate");
    void* base = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, part.memfd.get(), 0);
    if (base == MAP_FAILED) throw_errno("mmap");
    part.base = static_cast<std::byte*>(base);
    parts_.push_back(std::move(part));
    return parts_.back().region;
  }
  void remove(const RegionId& id) {
    const auto found = std::find_if(parts_.begin(), parts_.end(),
                                    [&](const Part& part) { return part.region.id == id; });
    ::munmap(found->base, found->region.range.bytes());
    parts_.erase(found);
  }

  [[nodiscard]] std::byte* page(std::uint64_t number) {
    for (Part& part : parts_) {
      if (part.region.range.contains(GuestPage{number})) {
        return part.base + (number - part.region.range.first.number) * kPageSize;
      }
    }
    throw std::out_of_range("no page " + std::to_string(number));
  }
  void put(std::uint64_t number, std::uint64_t value) {
    std::memcpy(page(number) + 8 * (number % 512), &value, sizeof value);
  }
  void punch(std::uint64_t number) {
    if (::madvise(page(number), kPageSize, MADV_REMOVE) != 0) throw_errno("MADV_REMOVE");
  }
  [[nodiscard]] std::uint64_t allocated_bytes() const {
    std::uint64_t bytes = 0;
    for (const Part& part : parts_) {
      struct stat status {};
      if (::fstat(part.memfd.get(), &status) != 0) throw_errno("fstat");
      bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
    }
    return bytes;
  }

  [[nodiscard]] std::vector<Region> all() const {
    std::vector<Region> regions;
    for (const Part& part : parts_) regions.push_back(part.region);
    return regions;
  }

  Result<std::vector<Region>> regions() override { return all(); }
  Result<ReadOutcome> read(const RegionId&, PageRange range, std::span<std::byte> into) override {
    if (fail_reads) return make_error(ErrorCode::kIo, "the disk is on fire");
    for (std::uint64_t i = 0; i < range.count; ++i) {
      if (gone.contains(range.first.number + i)) return ReadOutcome::kGone;
    }
    std::memcpy(into.data(), page(range.first.number), into.size());
    if (after_copy) after_copy();
    return ReadOutcome::kRead;
  }
  std::span<const std::byte> mapped(const RegionId& region) override {
    for (const Part& part : parts_) {
      if (part.region.id == region && !hidden_) return {part.base, part.region.range.bytes()};
    }
    return {};
  }
  Status holes(const RegionId& region, PageBitmap& holes) override {
    for (const Part& part : parts_) {
      if (part.region.id == region) add_holes(part, holes);
    }
    return {};
  }

  Pages gone;
  std::function<void()> after_copy;  ///< Of a read.
  bool fail_reads = false;

 private:
  struct Part {
    Region region;
    Fd memfd;
    std::byte* base = nullptr;
  };

  [[noreturn]] static void throw_errno(const char* what) {
    throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
  }
  static void add_holes(const Part& part, PageBitmap& holes) {
    const auto end = static_cast<off_t>(part.region.range.bytes());
    for (off_t at = 0; (at = ::lseek(part.memfd.get(), at, SEEK_HOLE)) >= 0 && at < end;) {
      const off_t data = ::lseek(part.memfd.get(), at, SEEK_DATA);
      const off_t stop = data < 0 ? end : data;
      holes.set(part.region.id,
                {part.region.range.first + static_cast<std::uint64_t>(at) / kPageSize,
                 static_cast<std::uint64_t>(stop - at) / kPageSize});
      at = stop;
    }
  }

  const bool hidden_;
  std::vector<Part> parts_;
};

Pages pages_of(const PageBitmap& set) {
  Pages pages;
  set.for_each_run([&](const RegionId&, PageRange run) {
    for (std::uint64_t i = 0; i < run.count; ++i) pages.insert(run.first.number + i);
  });
  return pages;
}

/// Both ways by which a collect gets at memory.
class ContentHash : public ::testing::TestWithParam<bool> {
 protected:
  Pages collect() {
    PageBitmap set(*tracking_.pages->regions());
    const Status collected = tracking_.tracker->collect(set);
    EXPECT_TRUE(collected) << collected.error().to_text();
    return pages_of(set);
  }
  void read(PageRange range) {
    for (const Region& region : memory_.all()) {
      if (!region.range.contains(range)) continue;
      std::vector<std::byte> copy(range.bytes());
      const auto outcome = tracking_.pages->read(region.id, range, copy);
      ASSERT_TRUE(outcome) << outcome.error().to_text();
    }
  }
  void read(std::uint64_t page) { read(PageRange{{page}, 1}); }
  void read_all() {
    for (const Region& region : memory_.all()) read(region.range);
  }
  DirtyTracker& tracker() { return *tracking_.tracker; }

  MemfdMemory memory_{GetParam()};
  ContentHashTracking tracking_ = make_content_hash_tracking(memory_);
};
INSTANTIATE_TEST_SUITE_P(Memory, ContentHash, ::testing::Values(false, true),
                         [](const auto& test) { return test.param ? "Read" : "Mapped"; });

TEST_P(ContentHash, ReportsExactlyWhatIsNotAsItWasLastRead) {
  constexpr std::uint64_t kPages = 700;  // Several pieces, the last one not a whole one.
  memory_.add(1, 100, kPages);
  for (std::uint64_t page = 100; page < 100 + kPages; ++page) memory_.put(page, 1);
  ASSERT_TRUE(tracker().start());
  std::map<std::uint64_t, std::uint64_t> now;
  std::map<std::uint64_t, std::uint64_t> read_as;  // Nothing for what was never read.
  for (std::uint64_t page = 100; page < 100 + kPages; ++page) now[page] = 1;
  std::mt19937_64 random(7);
  for (int step = 0; step < 200; ++step) {
    const std::uint64_t first = 100 + random() % kPages;
    const std::uint64_t count = 1 + random() % std::min<std::uint64_t>(300, 100 + kPages - first);
    for (std::uint64_t page = first; page < first + count; ++page) {
      if (step % 2 == 0) {
        read_as[page] = now[page];
      } else if (random() % 3 == 0) {
        memory_.put(page, now[page] = 1 + random() % 3);
      }
    }
    if (step % 2 == 0) read({{first}, count});
    Pages expected;
    for (const auto& [page, value] : now) {
      if (!read_as.contains(page) || read_as[page] != value) expected.insert(page);
    }
    ASSERT_EQ(collect(), expected) << "step " << step;
  }
}

TEST_P(ContentHash, PageThatChangedWasReadAndChangedBackIsFound) {
  memory_.add(1, 0, 4);
  for (std::uint64_t page = 0; page < 4; ++page) memory_.put(page, 'A');
  // What the tracker would be if it compared a collect with the one before.
  std::vector<std::uint64_t> former(4);
  const auto collect_by_former = [&] {
    Pages dirty;
    for (std::uint64_t page = 0; page < 4; ++page) {
      const std::uint64_t hash = XXH3_64bits(memory_.page(page), kPageSize);
      if (std::exchange(former[page], hash) != hash) dirty.insert(page);
    }
    return dirty;
  };
  ASSERT_TRUE(tracker().start());
  read_all();
  collect_by_former();
  ASSERT_EQ(collect(), Pages{});

  memory_.put(2, 'B');
  read(2);  // The target has B now.
  memory_.put(2, 'A');
  EXPECT_EQ(collect(), Pages{2});
  EXPECT_EQ(collect_by_former(), Pages{}) << "then tracking would not need to hash what is read";
}

TEST_P(ContentHash, PageWrittenWhileItIsReadIsFound) {
  memory_.add(1, 0, 4);
  memory_.put(2, 'A');
  ASSERT_TRUE(tracker().start());
  memory_.after_copy = [&] { memory_.put(2, 'B'); };
  read(2);
  memory_.after_copy = nullptr;
  EXPECT_EQ(collect(), Pages{2}) << "what was handed out is A";
}

TEST_P(ContentHash, PageNeverReadIsReportedUntilItIs) {
  memory_.add(1, 0, 3);
  for (std::uint64_t page = 0; page < 3; ++page) memory_.put(page, 5);
  read_all();  // Before start(): for somebody else.
  ASSERT_TRUE(tracker().start());
  EXPECT_EQ(collect(), (Pages{0, 1, 2}));
  read(1);
  EXPECT_EQ(collect(), (Pages{0, 2}));
  read_all();
  EXPECT_EQ(collect(), Pages{});
  ASSERT_TRUE(tracker().start());
  EXPECT_EQ(collect(), (Pages{0, 1, 2})) << "what was read before start() is another migration's";
}

TEST_P(ContentHash, CollectsAllocateNoHoles) {
  memory_.add(1, 0, 4096);
  memory_.put(17, 1);
  ASSERT_TRUE(tracker().start());
  ASSERT_EQ(collect(), Pages{17});
  read(17);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(collect(), Pages{});
  EXPECT_EQ(memory_.allocated_bytes(), kPageSize);
}

TEST_P(ContentHash, HoleThatWasFilledIsReported) {
  memory_.add(1, 0, 200);
  ASSERT_TRUE(tracker().start());
  ASSERT_EQ(collect(), Pages{});
  memory_.put(70, 9);
  EXPECT_EQ(collect(), Pages{70});
}

TEST_P(ContentHash, PageThatBecameAHoleIsReportedUnlessItWasReadAsZeros) {
  memory_.add(1, 0, 200);
  memory_.put(5, 1);
  memory_.put(6, 0);  // Allocated, all zeros.
  ASSERT_TRUE(tracker().start());
  read(5);
  read(6);
  ASSERT_EQ(collect(), Pages{});
  memory_.punch(5);
  memory_.punch(6);
  EXPECT_EQ(collect(), Pages{5});
  EXPECT_EQ(memory_.allocated_bytes(), 0u);
}

TEST_P(ContentHash, RegionsComeAndGo) {
  memory_.add(1, 0, 64);
  const Region goes = memory_.add(2, 1000, 70);
  for (std::uint64_t page : {0, 63, 1000, 1069}) memory_.put(page, 1);
  ASSERT_TRUE(tracker().start());
  read_all();
  ASSERT_EQ(collect(), Pages{});
  memory_.remove(goes.id);
  memory_.add(3, 2000, 10);
  memory_.put(2003, 1);
  EXPECT_EQ(collect(), Pages{2003});
  read_all();
  memory_.put(63, 2);
  EXPECT_EQ(collect(), Pages{63}) << "the region that stayed is known as before";
  // In the place of the one that went: nothing read of it counts.
  memory_.add(2, 1000, 70);
  memory_.put(1000, 1);
  EXPECT_EQ(collect(), (Pages{63, 1000}));
}

TEST_P(ContentHash, RegionOfTheSameNameInAnotherPlaceIsAnotherOne) {
  const Region first = memory_.add(1, 0, 64);
  memory_.put(1, 1);
  ASSERT_TRUE(tracker().start());
  read_all();
  ASSERT_EQ(collect(), Pages{});
  memory_.remove(first.id);
  memory_.add(1, 0, 65);
  memory_.put(1, 1);
  EXPECT_EQ(collect(), Pages{1});
}

TEST_P(ContentHash, RegionsLeftOutOfACollectAreKept) {
  const Region first = memory_.add(1, 0, 64);
  const Region second = memory_.add(2, 1000, 64);
  ASSERT_TRUE(tracker().start());
  memory_.put(3, 1);
  memory_.put(1003, 1);
  PageBitmap only_first(std::span(&first, 1));
  ASSERT_TRUE(tracker().collect(only_first));
  EXPECT_EQ(pages_of(only_first), Pages{3});
  PageBitmap only_second(std::span(&second, 1));
  ASSERT_TRUE(tracker().collect(only_second));
  EXPECT_EQ(pages_of(only_second), Pages{1003});
}

TEST_P(ContentHash, MemoryIsReadThroughTheTrackerOnly) {
  const Region region = memory_.add(1, 0, 8);
  EXPECT_TRUE(tracking_.pages->mapped(region.id).empty());
  memory_.put(2, 1);
  PageBitmap holes(std::span(&region, 1));
  ASSERT_TRUE(tracking_.pages->holes(region.id, holes));
  EXPECT_EQ(pages_of(holes), (Pages{0, 1, 3, 4, 5, 6, 7}));
}

TEST_P(ContentHash, CollectBeforeStartIsRefused) {
  const Region region = memory_.add(1, 0, 8);
  PageBitmap set(std::span(&region, 1));
  EXPECT_FALSE(tracker().collect(set));
  ASSERT_TRUE(tracker().start());
  EXPECT_TRUE(tracker().collect(set));
  ASSERT_TRUE(tracker().stop());
  EXPECT_FALSE(tracker().collect(set));
  ASSERT_TRUE(tracker().stop());
}

TEST(ContentHashOfUnmappedMemory, PartThatIsGoneHidesNothing) {
  MemfdMemory memory(true);
  const Region region = memory.add(1, 0, 600);
  auto tracking = make_content_hash_tracking(memory);
  for (std::uint64_t page = 0; page < 600; ++page) memory.put(page, 1);
  ASSERT_TRUE(tracking.tracker->start());
  std::vector<std::byte> copy(region.range.bytes());
  ASSERT_TRUE(tracking.pages->read(region.id, region.range, copy));
  memory.gone = {10, 300};
  for (const std::uint64_t page : {9, 10, 11, 599}) memory.put(page, 2);
  PageBitmap set(std::span(&region, 1));
  ASSERT_TRUE(tracking.tracker->collect(set));
  EXPECT_EQ(pages_of(set), (Pages{9, 11, 599}));
}

TEST(ContentHashOfUnmappedMemory, FailedCollectLosesNothing) {
  MemfdMemory memory(true);
  const Region region = memory.add(1, 0, 8);
  auto tracking = make_content_hash_tracking(memory);
  memory.put(1, 1);
  memory.put(2, 1);
  ASSERT_TRUE(tracking.tracker->start());
  std::vector<std::byte> copy(region.range.bytes());
  ASSERT_TRUE(tracking.pages->read(region.id, region.range, copy));
  memory.put(2, 2);
  memory.fail_reads = true;
  PageBitmap set(std::span(&region, 1));
  EXPECT_FALSE(tracking.tracker->collect(set));
  EXPECT_FALSE(tracking.pages->read(region.id, region.range, copy));
  memory.fail_reads = false;
  ASSERT_TRUE(tracking.tracker->collect(set));
  EXPECT_EQ(pages_of(set), Pages{2});
}

/// As a guest writes: while memory is read, and not seen by the thread sanitizer.
__attribute__((no_sanitize("thread"))) void store(std::byte* address, std::uint64_t value) {
  *reinterpret_cast<volatile std::uint64_t*>(address) = value;
}

/// Writes one of a few values to random pages, so that old content comes back.
class RestlessWriter {
 public:
  RestlessWriter(MemfdMemory& memory, std::uint64_t pages, unsigned seed)
      : thread_([=, this, &memory] {
          std::mt19937_64 random(seed);
          while (!quit_.load()) {
            const std::uint64_t page = random() % pages;
            store(memory.page(page) + 64 * seed, random() % 3);
          }
        }) {}
  ~RestlessWriter() {
    quit_ = true;
    thread_.join();
  }
  RestlessWriter(const RestlessWriter&) = delete;
  RestlessWriter& operator=(const RestlessWriter&) = delete;

 private:
  std::atomic<bool> quit_{false};
  std::thread thread_;
};

// Lanes read one round's pages while the coordinator collects the next one's already.
TEST_P(ContentHash, LosesNothingWhenWritersLanesAndCollectsRunBesideEachOther) {
  constexpr std::uint64_t kPages = 1000;
  constexpr int kRounds = 60;
  const Region region = memory_.add(1, 0, kPages);
  std::vector<std::byte> target(region.range.bytes());
  const auto send = [&](const PageBitmap& set, std::uint64_t first, std::uint64_t end) {
    const auto& segment = set.segments().front();
    for (PageRange run = next_run(segment, {first}, {end}); !run.empty();
         run = next_run(segment, run.end(), {end})) {
      const std::span<std::byte> into(target.data() + run.first.number * kPageSize, run.bytes());
      EXPECT_TRUE(tracking_.pages->read(region.id, run, into));
    }
  };
  ASSERT_TRUE(tracker().start());
  PageBitmap set(std::span(&region, 1));
  {
    const RestlessWriter one(memory_, kPages, 1);
    const RestlessWriter two(memory_, kPages, 2);
    for (int round = 0; round < kRounds; ++round) {
      PageBitmap next(std::span(&region, 1));
      std::thread lane_one([&] { send(set, 0, kPages / 2); });
      std::thread lane_two([&] { send(set, kPages / 2, kPages); });
      EXPECT_TRUE(tracker().collect(next));
      lane_one.join();
      lane_two.join();
      set = std::move(next);
    }
  }
  send(set, 0, kPages);
  set.clear_all();
  ASSERT_TRUE(tracker().collect(set));
  send(set, 0, kPages);
  EXPECT_EQ(std::memcmp(target.data(), memory_.page(0), target.size()), 0);
  set.clear_all();
  ASSERT_TRUE(tracker().collect(set));
  EXPECT_TRUE(set.empty());
}

}  // namespace
}  // namespace migrate
