#include "checkpoint/mapped_fill.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <string>

#include "postcopy/mapped_backing.hpp"

namespace migrate::checkpoint {
namespace {

constexpr const char* kInstead = "restore it without --mapped";
/// A mapping costs the kernel some 200 bytes and 2 us, and splits what lay there: about what
/// reading this much costs.
constexpr std::uint64_t kRunPagesMin = 8;
/// What a run takes at most: itself, and what remains behind it of the memory that it was put in.
constexpr std::uint64_t kMappingsPerRun = 2;
constexpr std::uint64_t kMapCountDefault = 65530;

/// How many mappings this process may still make, if it keeps to half of what it could have.
std::uint64_t mappings_left() {
  std::uint64_t most = kMapCountDefault;
  std::ifstream("/proc/sys/vm/max_map_count") >> most;
  std::uint64_t used = 0;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) ++used;
  return most / 2 > used ? most / 2 - used : 0;
}

/// What lies between the runs, in parts that are no longer than a part of the index.
std::vector<PagesPart> rest_of(std::span<const Region> regions, std::span<const MappableRun> runs) {
  std::vector<PagesPart> rest;
  const auto add = [&](std::uint16_t region, std::uint64_t first, std::uint64_t end) {
    while (first < end) {
      const std::uint64_t next = std::min(end, (first / kPagesPerIndex + 1) * kPagesPerIndex);
      rest.push_back({region, first, next - first});
      first = next;
    }
  };
  auto run = runs.begin();
  for (std::size_t i = 0; i < regions.size(); ++i) {
    const auto region = static_cast<std::uint16_t>(i);
    std::uint64_t at = 0;
    for (; run != runs.end() && run->region == region; ++run) {
      add(region, at, run->first);
      at = run->first + run->count;
    }
    add(region, at, regions[i].range.count);
  }
  return rest;
}

}  // namespace

void RunFinder::add(std::uint16_t region, std::uint64_t first, std::span<const FoundPage> found) {
  for (std::size_t i = 0; i < found.size(); ++i) {
    const FoundPage& page = found[i];
    if (page.file == nullptr || !page.location.is_raw()) continue;
    const std::uint64_t at = page.location.offset();
    if (!runs_.empty()) {
      MappableRun& last = runs_.back();
      if (last.region == region && last.file == page.file && last.first + last.count == first + i &&
          last.at + last.count * kPageSize == at) {
        ++last.count;
        continue;
      }
    }
    runs_.push_back({page.file, at, region, first + i, 1});
  }
}

std::vector<MappableRun> RunFinder::take(std::size_t runs_max, std::uint64_t pages_min) {
  std::vector<MappableRun> runs = std::move(runs_);
  std::erase_if(runs, [&](const MappableRun& run) { return run.count < pages_min; });
  if (runs.size() <= runs_max) return runs;
  const auto longer = [](const MappableRun& a, const MappableRun& b) { return a.count > b.count; };
  std::nth_element(runs.begin(), runs.begin() + static_cast<std::ptrdiff_t>(runs_max), runs.end(),
                   longer);
  runs.resize(runs_max);
  std::sort(runs.begin(), runs.end(), [](const MappableRun& a, const MappableRun& b) {
    return std::pair(a.region, a.first) < std::pair(b.region, b.first);
  });
  return runs;
}

Status check_mappable(PageSink& pages, std::span<const Region> regions) {
  MIGRATE_ASSIGN(const auto mapped, postcopy::MappedBackings::read());
  for (const Region& region : regions) {
    const std::string what = "region " + to_text(region.id);
    const auto memory = pages.mapped(region.id);
    if (memory.empty() || memory.size() != region.range.bytes()) {
      return make_error(ErrorCode::kUnsupported,
                        what + " cannot be mapped: its memory is another process's")
          .advise(kInstead);
    }
    const auto begin = reinterpret_cast<std::uint64_t>(memory.data());
    MIGRATE_ASSIGN(const auto backing, mapped.of({begin, begin + memory.size()}, what, kInstead));
    if (backing.hugetlb) {
      return make_error(ErrorCode::kUnsupported,
                        what + " cannot be mapped from the image: it is in huge pages (hugetlb)")
          .advise(std::string("give the guest ordinary memory, or ") + kInstead);
    }
    if (backing.shared) {
      return make_error(ErrorCode::kUnsupported,
                        what +
                            " cannot be mapped from the image: others share it, and would not "
                            "see what is mapped over it")
          .advise(std::string("give the guest private memory, or ") + kInstead);
    }
  }
  return {};
}

Result<MappedPlan> plan_mapping(const ImageChain& chain, const std::atomic<bool>& stop) {
  RunFinder finder;
  std::vector<FoundPage> found;
  for (const PagesPart& part : all_parts(chain.regions())) {
    if (stop.load()) return make_error(ErrorCode::kCancelled, "the restore was cancelled");
    found.assign(part.count, {});
    MIGRATE_TRY(chain.find(part.region, part.first, found));
    finder.add(part.region, part.first, found);
  }
  MappedPlan plan;
  plan.runs = finder.take(mappings_left() / kMappingsPerRun, kRunPagesMin);
  for (const MappableRun& run : plan.runs) plan.pages += run.count;
  plan.rest = rest_of(chain.regions(), plan.runs);
  return plan;
}

Status map_runs(const ImageChain& chain, PageSink& pages, std::span<const MappableRun> runs) {
  for (const MappableRun& run : runs) {
    const auto memory = pages.mapped(chain.regions()[run.region].id);
    std::byte* const at = memory.data() + run.first * kPageSize;
    void* const mapped =
        ::mmap(at, run.count * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
               run.file->fd(), static_cast<off_t>(run.at));
    if (mapped != MAP_FAILED) continue;
    const int error = errno;
    return make_errno_error(
               ErrorCode::kUnsupported, error,
               run.file->path() + " cannot be mapped at byte " + std::to_string(run.at))
        .advise(kInstead);
  }
  return {};
}

}  // namespace migrate::checkpoint
