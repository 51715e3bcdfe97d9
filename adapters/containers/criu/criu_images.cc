#include "adapters/containers/criu/criu_images.hpp"

#include <set>
#include <string>

#include "base/bytes.hpp"
#include "criu_image.pb.h"

namespace migrate::containers {
namespace {

// https://criu.org/Images
constexpr std::uint32_t kCommonMagic = 0x54564319;
constexpr std::uint32_t kPstreeMagic = 0x50273030;
constexpr std::uint32_t kMemoryMagic = 0x57492820;
constexpr std::uint32_t kPagemapMagic = 0x56084025;

// mm-NN.img is one record of some 40 bytes a mapping: room for 400000.
constexpr std::uint32_t kRecordMax = std::uint32_t{16} << 20;
constexpr std::uint32_t kPidMax = 1U << 22;  // The kernel's PID_MAX_LIMIT.
constexpr std::uint64_t kPage = 4096;

// Area::flags, as mmap has them.
constexpr std::uint32_t kPrivate = 0x02;
constexpr std::uint32_t kAnonymous = 0x20;
constexpr std::uint32_t kLocked = 0x2000;
constexpr std::uint32_t kHugetlb = 0x40000;
// Area::status.
constexpr std::uint32_t kKernelsOwn = 1U << 2 | 1U << 3 | 1U << 12;  // vsyscall, vDSO, vvar
constexpr std::uint32_t kGuard = 1U << 16;
// Of Area::madv: MADV_WIPEONFORK.
constexpr std::uint64_t kWipedAtFork = 1U << 18;
// PagemapEntry::flags.
constexpr std::uint32_t kInParent = 1;
constexpr std::uint32_t kLazy = 2;
constexpr std::uint32_t kPresent = 4;

/// The records of one file. Offsets in errors are those of the record that is wrong.
class Records {
 public:
  Records(std::span<const std::byte> image, const char* name) : reader_(image), name_(name) {}

  Status start(std::uint32_t magic) {
    const auto common = reader_.get<std::uint32_t>();
    const auto type = reader_.get<std::uint32_t>();
    MIGRATE_TRY(reader_.check(std::string("CRIU's ") + name_));
    if (common == kCommonMagic && type == magic) return {};
    return wrong("it begins as another kind of file does");
  }
  [[nodiscard]] bool more() const { return reader_.remaining() > 0; }
  template <typename Message>
  Status next(Message& message) {
    offset_ = reader_.offset();
    const auto length = reader_.get<std::uint32_t>();
    if (reader_.ok() && length > kRecordMax) {
      return wrong("a record of " + std::to_string(length) + " bytes is too long");
    }
    const std::span<const std::byte> body = reader_.bytes(length);
    MIGRATE_TRY(reader_.check(std::string("CRIU's ") + name_));
    // In two steps: the library itself writes to standard error of what is missing.
    if (message.ParsePartialFromArray(body.data(), static_cast<int>(body.size())) &&
        message.IsInitialized()) {
      return {};
    }
    return wrong("a record cannot be read");
  }
  [[nodiscard]] Error wrong(const std::string& why) const {
    return make_error(ErrorCode::kProtocol, std::string("CRIU's ") + name_ +
                                                " is damaged at byte " + std::to_string(offset_) +
                                                ": " + why);
  }

 private:
  ByteReader reader_;
  const char* name_;
  std::size_t offset_ = 0;
};

bool is_pid(std::uint32_t number) { return number > 0 && number <= kPidMax; }

bool is_range(std::uint64_t begin, std::uint64_t end) {
  return begin < end && begin % kPage == 0 && end % kPage == 0;
}

Result<ImageProcess> to_process(const Records& file, const image::Process& told,
                                const std::set<pid_t>& before) {
  const auto number = [](std::uint32_t pid) { return static_cast<pid_t>(pid); };
  if (!is_pid(told.pid()) || before.contains(number(told.pid()))) {
    return file.wrong("process " + std::to_string(told.pid()) + " is there twice, or cannot be");
  }
  // The first has no parent, and each other's stands before it.
  if (before.empty() ? told.ppid() > kPidMax : !before.contains(number(told.ppid()))) {
    return file.wrong("process " + std::to_string(told.pid()) + " has no parent in the tree");
  }
  ImageProcess process{.pid = number(told.pid()), .parent = number(told.ppid()), .threads = {}};
  process.threads.reserve(static_cast<std::size_t>(told.threads_size()));
  for (const std::uint32_t thread : told.threads()) {
    if (!is_pid(thread)) return file.wrong("a thread cannot be " + std::to_string(thread));
    process.threads.push_back(number(thread));
  }
  return process;
}

ImageArea to_area(const image::Area& told) {
  const bool kinds = (told.flags() & kAnonymous) != 0 && (told.flags() & kPrivate) != 0;
  const bool never =
      (told.flags() & (kLocked | kHugetlb)) != 0 || (told.status() & kKernelsOwn) != 0;
  return {.begin = told.start(),
          .end = told.end(),
          .lazy = kinds && !never,
          .wiped = (told.madv() & kWipedAtFork) != 0};
}

Result<ImagePages> to_pages(const Records& file, const image::PagemapEntry& told,
                            std::uint64_t after) {
  const std::uint64_t pages = told.has_nr_pages() ? told.nr_pages() : told.compat_nr_pages();
  const std::uint64_t address = told.vaddr();
  if (pages == 0 || address % kPage != 0 || address < after ||
      pages > (UINT64_MAX - address) / kPage) {
    return file.wrong(std::to_string(pages) + " pages cannot be at " + std::to_string(address));
  }
  const std::uint32_t flags = told.has_flags() ? told.flags() : kPresent;
  if ((flags & ~(kLazy | kPresent)) != 0 || told.in_parent()) {
    return file.wrong((flags & ~(kInParent | kLazy | kPresent)) != 0
                          ? "pages of an unknown kind, " + std::to_string(flags)
                          : std::string("pages that are in other images"));
  }
  return ImagePages{.address = address,
                    .pages = pages,
                    .lazy = (flags & kLazy) != 0,
                    .present = (flags & kPresent) != 0};
}

}  // namespace

Result<std::vector<ImageProcess>> parse_pstree(std::span<const std::byte> image) {
  Records file(image, "pstree.img");
  MIGRATE_TRY(file.start(kPstreeMagic));
  std::vector<ImageProcess> processes;
  std::set<pid_t> pids;
  while (file.more()) {
    image::Process told;
    MIGRATE_TRY(file.next(told));
    MIGRATE_ASSIGN(ImageProcess process, to_process(file, told, pids));
    pids.insert(process.pid);
    processes.push_back(std::move(process));
  }
  if (processes.empty()) return file.wrong("there is no process");
  return processes;
}

Result<std::vector<ImageArea>> parse_areas(std::span<const std::byte> image) {
  Records file(image, "mm image");
  MIGRATE_TRY(file.start(kMemoryMagic));
  image::Memory memory;
  MIGRATE_TRY(file.next(memory));
  if (file.more()) return file.wrong("there is more than one record");
  std::vector<ImageArea> areas;
  areas.reserve(static_cast<std::size_t>(memory.vmas_size()));
  std::uint64_t after = 0;
  for (const image::Area& told : memory.vmas()) {
    // Guard pages lie within an area, and are listed behind all of them.
    if ((told.status() & kGuard) != 0) continue;
    if (!is_range(told.start(), told.end()) || told.start() < after) {
      return file.wrong("no area can be from " + std::to_string(told.start()) + " to " +
                        std::to_string(told.end()));
    }
    after = told.end();
    areas.push_back(to_area(told));
  }
  return areas;
}

Result<std::vector<ImagePages>> parse_pagemap(std::span<const std::byte> image) {
  Records file(image, "pagemap image");
  MIGRATE_TRY(file.start(kPagemapMagic));
  image::PagemapHead head;
  MIGRATE_TRY(file.next(head));
  std::vector<ImagePages> runs;
  std::uint64_t after = 0;
  while (file.more()) {
    image::PagemapEntry told;
    MIGRATE_TRY(file.next(told));
    MIGRATE_ASSIGN(const ImagePages run, to_pages(file, told, after));
    after = run.address + run.pages * kPage;
    runs.push_back(run);
  }
  return runs;
}

}  // namespace migrate::containers
