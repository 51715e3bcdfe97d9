// All that is opened of the process under /proc (maps, mem, pagemap) belongs to its address space
// as it was at that time: once it has ended or replaced its program, these give nothing, whoever
// has its pid by then.
#include "migrate/process_memory.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <elf.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "base/fd.hpp"
#include "base/mutex.hpp"
#include "memory/process_maps.hpp"
#include "memory/process_status.hpp"
#include "memory/uffd_abi.hpp"

namespace migrate {
namespace {

// Bits of an entry of /proc/PID/pagemap: Documentation/admin-guide/mm/pagemap.rst.
constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
constexpr std::uint64_t kSwapped = std::uint64_t{1} << 62;
constexpr std::uint64_t kProtected = std::uint64_t{1} << 57;  // By a userfaultfd.
constexpr std::uint64_t kGuard = std::uint64_t{1} << 58;      // MADV_GUARD_INSTALL, Linux 6.15.
// Type (5 bits) and offset of what stands in a page table entry that is not present. Shown to
// CAP_SYS_ADMIN only, else 0. Type 31 is never a swap device: it is the kernel's markers, whose
// offset says what they mark (include/linux/swapops.h: 1 write protection of a page that is not
// there, 4 a guard page).
constexpr std::uint64_t kSwapPlace = (std::uint64_t{1} << 55) - 1;
constexpr std::uint64_t kProtectedHole = 31 | (1U << 5);
constexpr std::uint64_t kGuardMarker = 31 | (4U << 5);

constexpr std::size_t kEntriesAtOnce = 8192;  // 64 KiB of pagemap, 32 MiB of memory.
constexpr long kHugetlbfs = 0x958458f6;       // HUGETLBFS_MAGIC

/// Tries to read a page that is there. One in about 10^5 fails beside a thread that does nothing
/// but unmap and map that page.
constexpr int kHardReadsMax = 8;

std::string process_name(pid_t pid) { return "process " + std::to_string(pid); }

bool reads_as_zero(std::uint64_t entry) {
  if ((entry & (kPresent | kSwapped)) == 0) return true;
  return (entry & (kPresent | kProtected)) == kProtected && (entry & kSwapPlace) == kProtectedHole;
}

bool is_guard(std::uint64_t entry) {
  if ((entry & kPresent) != 0) return false;
  return (entry & kGuard) != 0 || (entry & kSwapPlace) == kGuardMarker;
}

class ForeignMemory final : public ProcessMemory {
 public:
  struct Files {
    Fd process;  ///< pidfd.
    Fd maps;
    Fd mem;
    Fd pagemap;
  };
  ForeignMemory(pid_t pid, std::uint32_t space, ProcessMappings which, Files files)
      : pid_(pid), space_(space), which_(which), files_(std::move(files)) {}

  Status look();
  [[nodiscard]] bool alive() const;

  [[nodiscard]] pid_t pid() const override { return pid_; }
  Result<RegionDelta> refresh() override;
  void renew(const RegionId& region) override;
  [[nodiscard]] std::vector<Region> known_regions() const override;
  [[nodiscard]] std::vector<ProcessMapping> mappings(const RegionId& region) const override;
  [[nodiscard]] std::vector<PageRange> empty_areas() const override;

  Result<std::vector<Region>> regions() override;
  Result<ReadOutcome> read(const RegionId& region, PageRange range,
                           std::span<std::byte> into) override;
  std::span<const std::byte> mapped(const RegionId&) override { return {}; }
  Status holes(const RegionId& region, PageBitmap& holes) override;

 private:
  Result<std::string> maps_text();
  [[nodiscard]] bool is_huge(const ProcessMapping& mapping);
  [[nodiscard]] bool holds_something(const ProcessMapping& mapping) const;
  void publish() MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] bool contains(const RegionId& region, PageRange range) const
      MIGRATE_EXCLUDES(mutex_);
  Result<ReadOutcome> read_some(std::uint64_t address, std::span<std::byte> into);
  Result<ReadOutcome> read_hard(std::uint64_t address, std::span<std::byte> page);
  void renew_unread() MIGRATE_EXCLUDES(mutex_);
  Result<std::uint64_t> page_entry(std::uint64_t address) const;

  const pid_t pid_;
  const std::uint32_t space_;
  const ProcessMappings which_;
  const Files files_;

  // The coordinator's.
  std::vector<ProcessRegion> regions_;
  std::vector<ProcessMapping> mappings_;
  std::vector<Region> reported_;  ///< By the latest refresh().
  std::uint32_t next_id_ = 0;
  std::map<std::uint64_t, bool> huge_devices_;

  mutable Mutex mutex_;
  std::map<RegionId, PageRange> readable_ MIGRATE_GUARDED_BY(mutex_);
  std::set<RegionId> unread_ MIGRATE_GUARDED_BY(mutex_);  ///< Found gone, in part at least.
};

bool ForeignMemory::alive() const {
  pollfd ended{files_.process.get(), POLLIN, 0};
  if (::poll(&ended, 1, 0) > 0) return false;
  // Not of its memory: an address that nothing is mapped at could be a stack's that has yet to
  // grow, for which the kernel waits until nobody else looks at the map.
  std::uint64_t entry = 0;
  return ::pread(files_.pagemap.get(), &entry, sizeof(entry), 0) != 0;
}

Result<std::string> ForeignMemory::maps_text() {
  if (!alive()) return std::string();
  std::string text;
  std::array<char, 16384> piece;
  for (;;) {
    const ssize_t got =
        ::pread(files_.maps.get(), piece.data(), piece.size(), static_cast<off_t>(text.size()));
    if (got == 0 || (got < 0 && errno == ESRCH)) return text;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return make_errno_error(ErrorCode::kIo, errno,
                              "the mappings of " + process_name(pid_) + " cannot be read");
    }
    text.append(piece.data(), static_cast<std::size_t>(got));
  }
}

/// A file of huge pages looks like any other by its name.
bool ForeignMemory::is_huge(const ProcessMapping& mapping) {
  if (mapping.inode == 0) return false;
  const auto known = huge_devices_.find(mapping.device);
  if (known != huge_devices_.end()) return known->second;
  std::array<char, 96> path{};
  std::snprintf(path.data(), path.size(), "/proc/%d/map_files/%llx-%llx", pid_,
                static_cast<unsigned long long>(mapping.begin),
                static_cast<unsigned long long>(mapping.end));
  struct statfs filesystem {};
  if (::statfs(path.data(), &filesystem) != 0) return false;
  return huge_devices_[mapping.device] = filesystem.f_type == kHugetlbfs;
}

/// Address space that is only reserved (no access, nothing in it), by the terabyte with some
/// runtimes, would cost a bit a page for nothing. It counts from when something may be in it.
bool ForeignMemory::holds_something(const ProcessMapping& mapping) const {
  if (mapping.readable || mapping.writable || mapping.executable || mapping.inode != 0) return true;
  abi::PageRegion found{};
  abi::ScanArguments arguments{};
  arguments.size = sizeof(arguments);
  arguments.begin = mapping.begin;
  arguments.end = mapping.end;
  arguments.vec = reinterpret_cast<std::uint64_t>(&found);
  arguments.vec_len = 1;
  arguments.pages_max = 1;
  arguments.category_anyof_mask = abi::kPageIsPresent | abi::kPageIsSwapped;
  arguments.return_mask = abi::kPageIsPresent;
  return ::ioctl(files_.pagemap.get(), abi::kPagemapScan, &arguments) != 0;
}

Status ForeignMemory::look() {
  MIGRATE_ASSIGN(const std::string text, maps_text());
  MIGRATE_ASSIGN(std::vector<ProcessMapping> mappings, parse_process_maps(text));
  for (ProcessMapping& mapping : mappings) {
    if (is_huge(mapping)) mapping.backing = Backing::kHugetlb;
  }
  std::erase_if(mappings,
                [](const ProcessMapping& mapping) { return !belongs_to_process(mapping); });
  if (which_ == ProcessMappings::kLazilyFilled) {
    MIGRATE_ASSIGN(const std::vector<AddressRange> locked, locked_areas(pid_));
    std::erase_if(mappings,
                  [&](const ProcessMapping& mapping) { return !filled_lazily(mapping, locked); });
  }
  regions_ = next_regions(
      regions_, mappings,
      [this](const ProcessMapping& mapping) { return holds_something(mapping); }, space_, next_id_);
  mappings_ = std::move(mappings);
  renew_unread();
  publish();
  return {};
}

/// A process may shrink its memory and grow it again between two looks (mremap): it is tracked all
/// the while and looks alike, but who read it in between was told that it is gone, and has not got
/// what nobody will write again.
void ForeignMemory::renew_unread() {
  const MutexLock lock(mutex_);
  for (ProcessRegion& region : regions_) {
    if (unread_.contains(region.region.id)) ++region.region.id.generation;
  }
  unread_.clear();
}

void ForeignMemory::publish() {
  std::map<RegionId, PageRange> readable;
  for (const ProcessRegion& region : regions_) {
    readable.emplace(region.region.id, region.region.range);
  }
  const MutexLock lock(mutex_);
  readable_ = std::move(readable);
}

std::vector<PageRange> ForeignMemory::empty_areas() const {
  std::vector<PageRange> empty;
  const auto add = [&empty](GuestPage begin, GuestPage end) {
    if (begin < end) empty.push_back({begin, end - begin});
  };
  auto region = regions_.begin();
  for (const ProcessMapping& mapping : mappings_) {
    GuestPage begin = GuestAddr{mapping.begin}.page();
    const GuestPage mapping_end = GuestAddr{mapping.end}.page();
    while (region != regions_.end() && region->region.range.end() <= begin) ++region;
    for (auto next = region; next != regions_.end() && next->region.range.first < mapping_end;
         ++next) {
      add(begin, next->region.range.first);
      begin = std::max(begin, next->region.range.end());
    }
    add(begin, mapping_end);
  }
  return empty;
}

std::vector<Region> ForeignMemory::known_regions() const {
  std::vector<Region> regions;
  regions.reserve(regions_.size());
  for (const ProcessRegion& region : regions_) regions.push_back(region.region);
  return regions;
}

Result<RegionDelta> ForeignMemory::refresh() {
  MIGRATE_TRY(look());
  std::vector<Region> now = known_regions();
  RegionDelta delta = delta_between(reported_, now);
  reported_ = std::move(now);
  return delta;
}

Result<std::vector<Region>> ForeignMemory::regions() {
  MIGRATE_TRY(look());
  return known_regions();
}

void ForeignMemory::renew(const RegionId& region) {
  for (ProcessRegion& known : regions_) {
    if (known.region.id == region) ++known.region.id.generation;
  }
  publish();
}

std::vector<ProcessMapping> ForeignMemory::mappings(const RegionId& region) const {
  for (const ProcessRegion& known : regions_) {
    if (known.region.id != region) continue;
    const PageRange range = known.region.range;
    return clipped(mappings_, range.first.number * kPageSize, range.end().number * kPageSize);
  }
  return {};
}

bool ForeignMemory::contains(const RegionId& region, PageRange range) const {
  const MutexLock lock(mutex_);
  const auto known = readable_.find(region);
  if (known == readable_.end()) return false;
  MIGRATE_CHECK(known->second.contains(range));
  return true;
}

Result<ReadOutcome> ForeignMemory::read(const RegionId& region, PageRange range,
                                        std::span<std::byte> into) {
  MIGRATE_CHECK(into.size() == range.bytes());
  if (!contains(region, range)) return ReadOutcome::kGone;
  MIGRATE_ASSIGN(const ReadOutcome outcome, read_some(range.first.number * kPageSize, into));
  // What was read by pid may be another process's or program's by now; then this one is gone.
  if (outcome == ReadOutcome::kRead && alive()) return ReadOutcome::kRead;
  const MutexLock lock(mutex_);
  unread_.insert(region);
  return ReadOutcome::kGone;
}

Result<ReadOutcome> ForeignMemory::read_some(std::uint64_t address, std::span<std::byte> into) {
  for (std::size_t done = 0; done < into.size();) {
    const iovec here{into.data() + done, into.size() - done};
    const iovec there{reinterpret_cast<void*>(address + done), into.size() - done};
    const ssize_t got = ::process_vm_readv(pid_, &here, 1, &there, 1, 0);
    if (got > 0) {
      done += static_cast<std::size_t>(got) / kPageSize * kPageSize;
      if (static_cast<std::size_t>(got) >= kPageSize) continue;
    }
    // One page of it cannot be read so: memory without access (PROT_NONE), or none at all.
    MIGRATE_ASSIGN(const ReadOutcome outcome,
                   read_hard(address + done, into.subspan(done, kPageSize)));
    if (outcome == ReadOutcome::kGone) return outcome;
    done += kPageSize;
  }
  return ReadOutcome::kRead;
}

Result<std::uint64_t> ForeignMemory::page_entry(std::uint64_t address) const {
  std::uint64_t entry = 0;
  const auto place = static_cast<off_t>(address / kPageSize * sizeof(entry));
  if (::pread(files_.pagemap.get(), &entry, sizeof(entry), place) ==
      static_cast<ssize_t>(sizeof(entry))) {
    return entry;
  }
  return make_errno_error(ErrorCode::kIo, errno,
                          "the page map of " + process_name(pid_) + " cannot be read");
}

/// Nothing holds the mapping between the looks below, and the process may put another in its place:
/// only a page that cannot be read although it is there every time is an error.
Result<ReadOutcome> ForeignMemory::read_hard(std::uint64_t address, std::span<std::byte> page) {
  int error = 0;
  for (int i = 0; i < kHardReadsMax; ++i) {
    const ssize_t got =
        ::pread(files_.mem.get(), page.data(), page.size(), static_cast<off_t>(address));
    if (got == static_cast<ssize_t>(page.size())) return ReadOutcome::kRead;
    error = got < 0 ? errno : 0;
    // Not from files_.maps, which has a position and is the coordinator's.
    const auto text = read_proc_file("/proc/" + std::to_string(pid_) + "/maps");
    if (!text && text.error().code == ErrorCode::kNotFound) return ReadOutcome::kGone;
    if (!text) return text.error();
    MIGRATE_ASSIGN(const std::vector<ProcessMapping> mappings, parse_process_maps(*text));
    if (clipped(mappings, address, address + kPageSize).empty()) return ReadOutcome::kGone;
    // The process could not read it either: behind its file's end, or a guard page. Holds nothing.
    MIGRATE_ASSIGN(const std::uint64_t entry, page_entry(address));
    if ((entry & (kPresent | kSwapped)) == 0 || is_guard(entry)) {
      std::memset(page.data(), 0, page.size());
      return ReadOutcome::kRead;
    }
  }
  std::array<char, 32> where{};
  std::snprintf(where.data(), where.size(), "0x%llx", static_cast<unsigned long long>(address));
  return make_errno_error(
             ErrorCode::kIo, error,
             "memory of " + process_name(pid_) + " at " + where.data() + " cannot be read")
      .advise("the page may be broken (see the kernel's log), or proc_mem.force_override forbids");
}

Status ForeignMemory::holes(const RegionId& region, PageBitmap& holes) {
  std::vector<std::uint64_t> entries(kEntriesAtOnce);
  for (const ProcessMapping& mapping : mappings(region)) {
    // What is not there of a file or of shared memory may still have content.
    if (mapping.inode != 0 || mapping.shared) continue;
    for (std::uint64_t page = mapping.begin / kPageSize; page < mapping.end / kPageSize;) {
      const std::size_t count =
          std::min<std::uint64_t>(entries.size(), mapping.end / kPageSize - page);
      const ssize_t got = ::pread(files_.pagemap.get(), entries.data(), count * sizeof(entries[0]),
                                  static_cast<off_t>(page * sizeof(entries[0])));
      if (got < 0) {
        return make_errno_error(ErrorCode::kIo, errno,
                                "the page map of " + process_name(pid_) + " cannot be read");
      }
      const std::size_t known = static_cast<std::size_t>(got) / sizeof(entries[0]);
      if (known == 0) return {};  // It has ended.
      for (std::size_t i = 0; i < known; ++i) {
        if (reads_as_zero(entries[i])) holes.set(region, GuestPage{page + i});
      }
      page += known;
    }
  }
  return {};
}

Error open_error(pid_t pid, const char* file, int error) {
  const std::string what = std::string(file) + " of " + process_name(pid) + " does not open";
  if (error == ENOENT || error == ESRCH) {
    return make_errno_error(ErrorCode::kNotFound, error, process_name(pid) + " does not exist");
  }
  if (error == EACCES || error == EPERM) {
    return make_errno_error(ErrorCode::kPermission, error, what)
        .advise("run as the same user or with CAP_SYS_PTRACE; see kernel.yama.ptrace_scope");
  }
  return make_errno_error(ErrorCode::kIo, error, what);
}

Result<Fd> open_of(pid_t pid, const char* file) {
  const std::string path = "/proc/" + std::to_string(pid) + "/" + file;
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return open_error(pid, file, errno);
  return fd;
}

/// A program of this word size.
Status check_program(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/exe";
  const Fd program(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!program) {
    const int error = errno;
    const auto status = thread_status(pid, pid);
    if (error == ENOENT && status && status->state != 'Z' && status->state != 'X') {
      return make_error(ErrorCode::kUnsupported,
                        process_name(pid) + " is a kernel thread and has no memory of its own");
    }
    return open_error(pid, "the program", error);
  }
  std::array<unsigned char, EI_NIDENT> ident{};
  if (::pread(program.get(), ident.data(), ident.size(), 0) != static_cast<ssize_t>(ident.size()) ||
      ident[EI_CLASS] != (sizeof(void*) == 8 ? ELFCLASS64 : ELFCLASS32)) {
    return make_error(ErrorCode::kUnsupported,
                      process_name(pid) + " is not of this program's word size");
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<ProcessMemory>> ProcessMemory::open(pid_t pid, std::uint32_t space,
                                                           ProcessMappings which) {
  if (pid <= 0) return make_error(ErrorCode::kNotFound, "there is no process without a number");
  ForeignMemory::Files files;
  files.process.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!files.process) return open_error(pid, "a descriptor", errno == EINVAL ? ESRCH : errno);
  MIGRATE_TRY(check_program(pid));
  MIGRATE_ASSIGN(files.maps, open_of(pid, "maps"));
  MIGRATE_ASSIGN(files.mem, open_of(pid, "mem"));
  MIGRATE_ASSIGN(files.pagemap, open_of(pid, "pagemap"));
  auto memory = std::make_shared<ForeignMemory>(pid, space, which, std::move(files));
  MIGRATE_ASSIGN(const RegionDelta first, memory->refresh());
  // Found by pid, all of it: of this process if that is still there.
  if (first.added.empty() && !memory->alive()) return open_error(pid, "the memory", ESRCH);
  return std::shared_ptr<ProcessMemory>(std::move(memory));
}

}  // namespace migrate
