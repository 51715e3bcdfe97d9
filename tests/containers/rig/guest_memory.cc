#include "guest_memory.hpp"

#include <fcntl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>

namespace migrate::rig {
namespace {

constexpr size_t kHugeBytes = 2u << 20;
constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;
// Pieces in which a changing area moves: some are smaller than a huge page, so that splits and
// merges of areas happen.
constexpr size_t kPiecePages = 64;
constexpr size_t kGuardedPages = 16;

std::byte* Map(size_t bytes, int flags, int fd = -1, int protection = PROT_READ | PROT_WRITE) {
  void* base = mmap(nullptr, bytes, protection, flags, fd, 0);
  return base == MAP_FAILED ? nullptr : static_cast<std::byte*>(base);
}

class PlainArea : public Area {
 public:
  PlainArea(const std::string& kind, uint64_t first, std::byte* base, size_t pages)
      : Area(kind, first) {
    Add(base, pages);
    FillAll();
  }
};

std::byte* MapPlain(size_t bytes) {
  std::byte* base = Map(bytes, kPrivate);
  if (base != nullptr) madvise(base, bytes, MADV_NOHUGEPAGE);
  return base;
}

std::byte* MapHuge(size_t bytes) {
  std::byte* base = Map(bytes + kHugeBytes, kPrivate);
  if (base == nullptr) return nullptr;
  const auto address = reinterpret_cast<uintptr_t>(base);
  base += (kHugeBytes - address % kHugeBytes) % kHugeBytes;
  madvise(base, bytes, MADV_HUGEPAGE);
  return base;
}

std::byte* MapMemfd(size_t bytes) {
  const int fd = memfd_create("guest", 0);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0) return nullptr;
  return Map(bytes, MAP_SHARED, fd);
}

std::byte* MapSysv(size_t bytes) {
  const int id = shmget(IPC_PRIVATE, bytes, IPC_CREAT | 0600);
  if (id < 0) return nullptr;
  void* base = shmat(id, nullptr, 0);
  const int error = errno;
  // It goes with its last user.
  shmctl(id, IPC_RMID, nullptr);
  errno = error;
  return base == reinterpret_cast<void*>(-1) ? nullptr : static_cast<std::byte*>(base);
}

std::byte* MapBrk(size_t bytes) {
  const auto end = reinterpret_cast<uintptr_t>(sbrk(0));
  const size_t gap = (kPageBytes - end % kPageBytes) % kPageBytes;
  void* base = sbrk(static_cast<intptr_t>(bytes + gap));
  return base == reinterpret_cast<void*>(-1) ? nullptr : static_cast<std::byte*>(base) + gap;
}

std::byte* MapLocked(size_t bytes) {
  std::byte* base = Map(bytes, kPrivate);
  return base != nullptr && mlock(base, bytes) == 0 ? base : nullptr;
}

// A file mapped privately: the first half is written, and so copied; the rest stays the file's.
class FileArea : public Area {
 public:
  FileArea(uint64_t first, std::byte* base, size_t pages) : Area("file", first) {
    Add(base, pages);
    FillAll();
  }
  bool Reopen(const std::string& path) {
    const size_t bytes = pages() * kPageBytes;
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, pages_[0], bytes) != static_cast<ssize_t>(bytes)) return false;
    void* base = mmap(pages_[0], bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0);
    close(fd);
    writable_ = pages() / 2;
    return base != MAP_FAILED;
  }
};

// Runs of pages with a page that nobody may touch after each.
class GuardedArea : public Area {
 public:
  GuardedArea(uint64_t first, size_t pages) : Area("guard", first) {
    const size_t runs = std::max<size_t>(1, pages / kGuardedPages);
    std::byte* base = Map(runs * (kGuardedPages + 1) * kPageBytes, kPrivate);
    if (base == nullptr) return;
    for (size_t run = 0; run < runs; ++run) {
      std::byte* at = base + run * (kGuardedPages + 1) * kPageBytes;
      mprotect(at + kGuardedPages * kPageBytes, kPageBytes, PROT_NONE);
      Add(at, kGuardedPages);
    }
    FillAll();
  }
};

}  // namespace

// Pieces of private memory that come, move and go while it runs.
class ChangingArea : public Area {
 public:
  ChangingArea(const std::string& kind, uint64_t first, size_t pages) : Area(kind, first) {
    limit_ = std::max(pages, kPiecePages);
    const size_t at_first = kind == "grow" ? std::max(limit_ / 4, kPiecePages) : limit_;
    while (this->pages() + kPiecePages <= at_first && Grow()) {
    }
  }

  void Change(uint64_t random) override {
    if (kind() == "grow") {
      if (pages() + kPiecePages <= limit_) Grow();
      return;
    }
    const size_t piece = random % (pages() / kPiecePages) * kPiecePages;
    if (kind() == "dontneed") {
      Drop(piece);
    } else if (kind() == "mremap") {
      Move(piece);
    } else {
      Renew(piece);
    }
  }

 private:
  static constexpr size_t kPieceBytes = kPiecePages * kPageBytes;

  bool Grow() {
    const size_t before = pages();
    std::byte* base = Map(kPieceBytes, kPrivate);
    if (base == nullptr) return false;
    Add(base, kPiecePages);
    for (size_t page = before; page < pages(); ++page) Write(page);
    return true;
  }

  void Drop(size_t piece) {
    madvise(pages_[piece], kPieceBytes, MADV_DONTNEED);
    for (size_t page = 0; page < kPiecePages; ++page) ClearGeneration(piece + page);
  }

  void Move(size_t piece) {
    std::byte* to = Map(kPieceBytes, kPrivate | MAP_NORESERVE, -1, PROT_NONE);
    if (to == nullptr) return;
    void* now = mremap(pages_[piece], kPieceBytes, kPieceBytes, MREMAP_MAYMOVE | MREMAP_FIXED, to);
    if (now != MAP_FAILED) Replace(piece, to);
  }

  // First the new, so that it lies elsewhere.
  void Renew(size_t piece) {
    std::byte* fresh = Map(kPieceBytes, kPrivate);
    if (fresh == nullptr) return;
    munmap(pages_[piece], kPieceBytes);
    Replace(piece, fresh);
    for (size_t page = 0; page < kPiecePages; ++page) Write(piece + page);
  }

  void Replace(size_t piece, std::byte* base) {
    for (size_t page = 0; page < kPiecePages; ++page) {
      pages_[piece + page] = base + page * kPageBytes;
    }
  }

  size_t limit_ = 0;
};

void Area::Write(size_t page) {
  // 0 is zeros.
  const uint32_t next = std::max<uint32_t>(1, generations_[page] + 1);
  generations_[page] = next;
  FillPage(pages_[page], first_ + page, next);
}

bool Area::IsRight(size_t page) const {
  return PageIsRight(pages_[page], first_ + page, generations_[page]);
}

void Area::Add(std::byte* base, size_t pages) {
  for (size_t page = 0; page < pages; ++page) pages_.push_back(base + page * kPageBytes);
  generations_.resize(pages_.size());
  writable_ = pages_.size();
}

void Area::FillAll() {
  for (size_t page = 0; page < pages(); ++page) Write(page);
}

std::vector<std::string> AreaKinds() {
  return {"anon",  "thp",  "shared", "memfd",    "sysv",   "hugetlb", "mlocked", "brk",
          "stack", "file", "guard",  "dontneed", "mremap", "churn",   "grow"};
}

std::unique_ptr<Area> MakeArea(const std::string& kind, size_t pages, uint64_t first_number,
                               const std::string& folder, std::string* problem) {
  const size_t bytes = pages * kPageBytes;
  if (kind == "guard") return std::make_unique<GuardedArea>(first_number, pages);
  if (kind == "dontneed" || kind == "mremap" || kind == "churn" || kind == "grow") {
    return std::make_unique<ChangingArea>(kind, first_number, pages);
  }
  std::byte* base = nullptr;
  if (kind == "anon" || kind == "file") base = MapPlain(bytes);
  if (kind == "thp") base = MapHuge(bytes);
  if (kind == "shared") base = Map(bytes, MAP_SHARED | MAP_ANONYMOUS);
  if (kind == "memfd") base = MapMemfd(bytes);
  if (kind == "sysv") base = MapSysv(bytes);
  if (kind == "brk") base = MapBrk(bytes);
  if (kind == "mlocked") base = MapLocked(bytes);
  if (kind == "hugetlb") base = Map(bytes, kPrivate | MAP_HUGETLB);
  if (base == nullptr) {
    *problem = std::string(std::strerror(errno));
    return nullptr;
  }
  if (kind != "file") return std::make_unique<PlainArea>(kind, first_number, base, pages);
  auto area = std::make_unique<FileArea>(first_number, base, pages);
  if (area->Reopen(folder + "/mapped")) return area;
  *problem = std::string(std::strerror(errno));
  return nullptr;
}

namespace {

class StackArea : public Area {
 public:
  explicit StackArea(uint64_t first) : Area("stack", first) {}
  void AddPage(std::byte* page) { Add(page, 1); }
  void Fill() { FillAll(); }
};

// Each call is one frame with one page; kept from being made into a loop by its use afterwards.
[[gnu::noinline]] void Deeper(size_t pages, std::unique_ptr<StackArea> area,
                              void (*bottom)(std::unique_ptr<Area> area)) {
  std::byte page[kPageBytes];
  area->AddPage(page);
  if (pages > 1) {
    Deeper(pages - 1, std::move(area), bottom);
  } else {
    area->Fill();
    bottom(std::move(area));
  }
  asm volatile("" : : "r"(page) : "memory");
}

}  // namespace

void WithStackArea(size_t pages, uint64_t first_number,
                   void (*bottom)(std::unique_ptr<Area> area)) {
  Deeper(pages, std::make_unique<StackArea>(first_number), bottom);
}

}  // namespace migrate::rig
