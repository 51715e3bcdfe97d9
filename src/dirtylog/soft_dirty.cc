// The tracker by the soft-dirty bit (Documentation/admin-guide/mm/soft-dirty.rst): bit 55 of a
// page's entry in /proc/PID/pagemap says that it was written since 4 was written to
// /proc/PID/clear_refs. Those are two steps, so the process stands still between them. No kernel
// has them as one: who writes to the process from outside meanwhile sets a bit after it was read,
// and it is cleared (trackers.hpp says who).
//
// The bit alone misses memory that was discarded (MADV_DONTNEED) and then only read, or not touched
// at all. So the rest of each entry is remembered (where the page is: eight bytes a page), and a
// page that is elsewhere than it was counts as written as well. One that the kernel only moved or
// swapped is then sent in vain.
#include "dirtylog/soft_dirty.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "memory/remote_call.hpp"
#include "migrate/trackers.hpp"

namespace migrate {
namespace {

constexpr std::uint64_t kSoftDirty = std::uint64_t{1} << 55;
/// Present, swapped, and where: the page frame, or the place in swap.
constexpr std::uint64_t kPlace = (std::uint64_t{3} << 62) | (kSoftDirty - 1);
constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;

constexpr std::size_t kEntriesAtOnce = 8192;  // 64 KiB, those of 32 MiB of memory.

Error pagemap_error(int error, const std::string& path) {
  if (error == ENOENT || error == ESRCH) {
    return make_errno_error(ErrorCode::kNotFound, error, path + " does not exist");
  }
  const bool forbidden = error == EACCES || error == EPERM;
  return make_errno_error(forbidden ? ErrorCode::kPermission : ErrorCode::kIo, error,
                          path + " cannot be used")
      .advise("run with the right to ptrace that process");
}

Result<Fd> open_of(pid_t pid, const char* file, int flags) {
  const std::string path = "/proc/" + std::to_string(pid) + "/" + file;
  Fd fd(::open(path.c_str(), flags | O_CLOEXEC));
  if (!fd) return pagemap_error(errno, path);
  return fd;
}

/// The entry of a page of this process that has just been written.
Result<std::uint64_t> entry_of_written_page() {
  void* page =
      ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) {
    return make_errno_error(ErrorCode::kNoMemory, errno, "no page to try the soft-dirty bit on");
  }
  *static_cast<volatile char*>(page) = 1;
  std::uint64_t entry = 0;
  const Fd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  const auto place =
      static_cast<off_t>(reinterpret_cast<std::uint64_t>(page) / kPageSize * sizeof(entry));
  const bool read = pagemap && ::pread(pagemap.get(), &entry, sizeof(entry), place) ==
                                   static_cast<ssize_t>(sizeof(entry));
  const int error = errno;
  ::munmap(page, kPageSize);
  if (!read) return pagemap_error(error, "/proc/self/pagemap");
  return entry;
}

class SoftDirtyTracker final : public DirtyTracker {
 public:
  explicit SoftDirtyTracker(std::shared_ptr<ProcessMemory> memory) : memory_(std::move(memory)) {}

  [[nodiscard]] std::string_view name() const override { return "soft-dirty"; }
  [[nodiscard]] DirtyCoverage covers() const override {
    return {.guest_cpu = true, .kernel = true, .vmm = true};
  }
  [[nodiscard]] bool rearms_in_collect() const override { return true; }
  [[nodiscard]] std::vector<std::uint64_t> written_by_vcpu() const override { return {}; }

  Status start() override;
  Status collect(PageBitmap& round_set) override;
  Status rearm(const PageBitmap&, const RegionId&, PageRange) override { return {}; }
  Status peek(PageBitmap& again) override;
  Status stop() override;

 private:
  using Places = std::vector<std::uint64_t>;  ///< Of a region's pages.

  /// While the process stands still: what was written since the last time goes to pending_.
  Status take(const std::vector<Region>& known);
  Status scan(const Region& region, Places* former, PageBitmap& found, Places* places);
  Status clear();

  std::shared_ptr<ProcessMemory> memory_;
  Fd pagemap_;
  Fd clear_refs_;
  std::map<RegionId, Places> places_;
  PageBitmap pending_;  ///< Taken and not handed out yet.
};

Status SoftDirtyTracker::start() {
  if (pagemap_) {
    return make_error(ErrorCode::kBusy, "the writes of process " + std::to_string(memory_->pid()) +
                                            " are being tracked already");
  }
  MIGRATE_ASSIGN(pagemap_, open_of(memory_->pid(), "pagemap", O_RDONLY));
  auto clear_refs = open_of(memory_->pid(), "clear_refs", O_WRONLY);
  Status taken = clear_refs ? Status() : Status(std::move(clear_refs).error());
  if (taken) {
    clear_refs_ = *std::move(clear_refs);
    taken = with_process_stopped(memory_->pid(), [this] { return take({}); });
  }
  if (!taken) {
    (void)stop();
    return taken;
  }
  pending_.clear_all();
  return {};
}

Status SoftDirtyTracker::take(const std::vector<Region>& known) {
  MIGRATE_TRY(memory_->refresh());
  const std::vector<Region> now = memory_->known_regions();
  pending_.reshape(now, false);
  std::map<RegionId, Places> places;
  for (const Region& region : now) {
    const auto former = places_.find(region.id);
    const bool old = former != places_.end();
    // New to this tracker but not to others, who may have read it.
    const bool read_before = !old && std::any_of(known.begin(), known.end(), [&](const Region& r) {
      return r.id == region.id;
    });
    if (read_before) pending_.set(region.id, region.range);
    MIGRATE_TRY(scan(region, old ? &former->second : nullptr, pending_, &places[region.id]));
  }
  // Should clearing fail, the same bits are found again next time: nothing is lost.
  MIGRATE_TRY(clear());
  places_ = std::move(places);
  return {};
}

/// `former`: where the pages were; nullptr for a region that is new, of which nothing need be told.
Status SoftDirtyTracker::scan(const Region& region, Places* former, PageBitmap& found,
                              Places* places) {
  std::vector<std::uint64_t> entries(kEntriesAtOnce);
  if (places != nullptr) places->reserve(region.range.count);
  for (std::uint64_t done = 0; done < region.range.count;) {
    const auto count = std::min<std::uint64_t>(entries.size(), region.range.count - done);
    const auto at = static_cast<off_t>((region.range.first.number + done) * sizeof(entries[0]));
    const ssize_t got = ::pread(pagemap_.get(), entries.data(), count * sizeof(entries[0]), at);
    if (got < 0) {
      return pagemap_error(errno, "/proc/" + std::to_string(memory_->pid()) + "/pagemap");
    }
    const std::size_t entries_read = static_cast<std::size_t>(got) / sizeof(entries[0]);
    if (entries_read == 0) return {};  // The process has ended.
    for (std::size_t i = 0; i < entries_read; ++i, ++done) {
      const std::uint64_t place = entries[i] & kPlace;
      const bool moved = former != nullptr && (done >= former->size() || (*former)[done] != place);
      if ((former != nullptr && (entries[i] & kSoftDirty) != 0) || moved) {
        found.set(region.id, PageRange{region.range.first + done, 1});
      }
      if (places != nullptr) places->push_back(place);
    }
  }
  return {};
}

Status SoftDirtyTracker::clear() {
  constexpr char kClearSoftDirty = '4';
  if (::write(clear_refs_.get(), &kClearSoftDirty, 1) == 1 || errno == ESRCH) return {};
  return pagemap_error(errno, "/proc/" + std::to_string(memory_->pid()) + "/clear_refs");
}

/// Whether every thread of the process is held by another one's ptrace, which is what a process
/// can be stopped by that is being checkpointed. It stays so for a collect: who holds it waits.
bool is_held_by_ptrace(pid_t pid) {
  const std::string folder = "/proc/" + std::to_string(pid) + "/task";
  std::error_code error;
  bool held = false;
  for (const auto& thread : std::filesystem::directory_iterator(folder, error)) {
    std::ifstream file(thread.path() / "stat");
    std::string stat((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    // "TID (NAME) STATE ...": the name may have anything in it.
    const std::size_t name_end = stat.rfind(") ");
    held = name_end != std::string::npos && name_end + 2 < stat.size() && stat[name_end + 2] == 't';
    if (!held) return false;
  }
  return held && !error;
}

Status SoftDirtyTracker::collect(PageBitmap& round_set) {
  if (!pagemap_) {
    return make_error(ErrorCode::kInvalidArgument, "collect from a tracker that was not started");
  }
  const std::vector<Region> known = memory_->known_regions();
  Status taken = with_process_stopped(memory_->pid(), [&] { return take(known); });
  if (!taken && taken.error().code == ErrorCode::kNotFound) {
    // It has ended, which is no failure: its regions are gone.
    taken = take(known);
  } else if (!taken && taken.error().code == ErrorCode::kBusy &&
             is_held_by_ptrace(memory_->pid())) {
    taken = take(known);
  }
  MIGRATE_TRY(std::move(taken));
  pending_.hand_over(round_set);
  return {};
}

Status SoftDirtyTracker::peek(PageBitmap& again) {
  if (!pagemap_) return {};
  for (const Region& region : memory_->known_regions()) {
    if (again.find(region.id) == nullptr) continue;
    const auto former = places_.find(region.id);
    if (former != places_.end()) MIGRATE_TRY(scan(region, &former->second, again, nullptr));
  }
  again.merge(pending_);
  return {};
}

Status SoftDirtyTracker::stop() {
  pagemap_.reset();
  clear_refs_.reset();
  places_.clear();
  pending_ = PageBitmap();
  return {};
}

}  // namespace

Status soft_dirty_supported() {
  MIGRATE_ASSIGN(const std::uint64_t entry, entry_of_written_page());
  if ((entry & kSoftDirty) != 0) return {};
  return make_error(ErrorCode::kUnsupported,
                    "this kernel does not keep the soft-dirty bit: a page just written lacks it")
      .advise("use a kernel with CONFIG_MEM_SOFT_DIRTY, or track writes another way");
}

Result<std::unique_ptr<DirtyTracker>> make_soft_dirty_tracker(
    std::shared_ptr<ProcessMemory> memory) {
  MIGRATE_CHECK(memory != nullptr);
  MIGRATE_TRY(soft_dirty_supported());
  MIGRATE_ASSIGN(const std::uint64_t entry, entry_of_written_page());
  if ((entry & kPresent) != 0 && (entry & kPlace) == kPresent) {
    return make_error(ErrorCode::kPermission,
                      "the soft-dirty bit alone misses discarded memory, and the kernel does not "
                      "show this process where pages are")
        .advise("run with CAP_SYS_ADMIN");
  }
  return std::unique_ptr<DirtyTracker>(std::make_unique<SoftDirtyTracker>(std::move(memory)));
}

}  // namespace migrate
