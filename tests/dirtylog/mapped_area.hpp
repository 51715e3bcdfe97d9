// MappedArea: memory of this process as a tracker is given it, of any backing.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "migrate/trackers.hpp"
#include "tests/support/huge_pages.hpp"

namespace migrate::testing {

enum class AreaKind : std::uint8_t {
  kPrivate,
  kMemfd,
  kTransparentHuge,
  kHugetlbPrivate,
  kHugetlbMemfd
};

inline constexpr std::uint64_t kHugePagePages = 512;

class MappedArea {
 public:
  static constexpr std::uint64_t kFirstPage = 1000;  ///< Not 0: addresses are not page numbers.

  MappedArea(AreaKind kind, std::uint64_t pages, std::uint32_t id = 0) : kind_(kind) {
    if (hugetlb()) {
      pages = (pages + kHugePagePages - 1) / kHugePagePages * kHugePagePages;
      reserved_.emplace(pages / kHugePagePages);
      why_not_ = reserved_->why_not();
      if (!why_not_.empty()) return;
    }
    const std::uint64_t bytes = pages * kPageSize;
    const bool file = kind == AreaKind::kMemfd || kind == AreaKind::kHugetlbMemfd;
    if (file) {
      memfd_ = Fd(::memfd_create("tracked", MFD_CLOEXEC | (hugetlb() ? MFD_HUGETLB : 0U)));
      if (::ftruncate(memfd_.get(), static_cast<off_t>(bytes)) != 0) why_not_ = "no such memfd";
    }
    // Room around, so that an aligned part of it can be used.
    room_bytes_ = bytes + 2 * kHugePagePages * kPageSize;
    room_ = ::mmap(nullptr, room_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const std::uint64_t align = kHugePagePages * kPageSize;
    const auto start = (reinterpret_cast<std::uint64_t>(room_) + align - 1) / align * align;
    region_.region = {RegionId{0, id, 0}, PageRange{{kFirstPage + 100000 * id}, pages},
                      Backing::kUnknown};
    region_.address = reinterpret_cast<std::byte*>(start);
    map();
    if (kind == AreaKind::kTransparentHuge) {
      if (::madvise(address(), bytes, MADV_HUGEPAGE) != 0) why_not_ = "no transparent huge pages";
    }
  }
  ~MappedArea() {
    if (room_ != nullptr) ::munmap(room_, room_bytes_);
  }
  MappedArea(const MappedArea&) = delete;
  MappedArea& operator=(const MappedArea&) = delete;

  /// Maps the memory at its address, again if need be: a private one is fresh then.
  void map() {
    const int flags = MAP_FIXED | (memfd_ ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) |
                      (kind_ == AreaKind::kHugetlbPrivate ? MAP_HUGETLB : 0);
    void* mapped =
        ::mmap(address(), bytes(), PROT_READ | PROT_WRITE, flags, memfd_ ? memfd_.get() : -1, 0);
    if (mapped == MAP_FAILED) why_not_ = "the memory cannot be mapped";
  }

  [[nodiscard]] const std::string& why_not() const { return why_not_; }
  [[nodiscard]] const MappedRegion& mapped() const { return region_; }
  [[nodiscard]] const Region& region() const { return region_.region; }
  [[nodiscard]] std::byte* address() const { return region_.address; }
  [[nodiscard]] std::byte* page(std::uint64_t index) const { return address() + index * kPageSize; }
  [[nodiscard]] std::uint64_t pages() const { return region().range.count; }
  [[nodiscard]] std::uint64_t bytes() const { return pages() * kPageSize; }
  [[nodiscard]] int memfd() const { return memfd_.get(); }
  [[nodiscard]] bool hugetlb() const {
    return kind_ == AreaKind::kHugetlbPrivate || kind_ == AreaKind::kHugetlbMemfd;
  }
  /// A write shows as so many pages, or fewer where huge pages may be split.
  [[nodiscard]] std::uint64_t granularity() const {
    return hugetlb() || kind_ == AreaKind::kTransparentHuge ? kHugePagePages : 1;
  }

  void write(std::uint64_t index) const {
    auto* word = reinterpret_cast<std::uint64_t*>(page(index));
    std::atomic_ref<std::uint64_t>(*word).fetch_add(1, std::memory_order_relaxed);
  }
  void write_all() const {
    for (std::uint64_t i = 0; i < pages(); ++i) write(i);
  }
  [[nodiscard]] std::uint64_t read(std::uint64_t index) const {
    auto* word = reinterpret_cast<std::uint64_t*>(page(index));
    return std::atomic_ref<std::uint64_t>(*word).load(std::memory_order_relaxed);
  }
  void read_all() const {
    for (std::uint64_t i = 0; i < pages(); ++i) (void)read(i);
  }

 private:
  AreaKind kind_;
  std::optional<HugePages> reserved_;
  Fd memfd_;
  void* room_ = nullptr;
  std::size_t room_bytes_ = 0;
  MappedRegion region_;
  std::string why_not_;
};

/// Indexes of the pages of `area` in `set`.
inline std::vector<std::uint64_t> indexes(const PageBitmap& set, const MappedArea& area) {
  std::vector<std::uint64_t> found;
  for (std::uint64_t i = 0; i < area.pages(); ++i) {
    if (set.test(area.region().id, area.region().range.first + i)) found.push_back(i);
  }
  return found;
}

/// What a migration would have of an area at the target.
class AreaCopy {
 public:
  explicit AreaCopy(const MappedArea& area) : area_(area), words_(area.bytes() / 8) {
    copy(area.region().range);
  }
  void read(const PageBitmap& set) {
    set.for_each_run([&](const RegionId& id, PageRange run) {
      if (id == area_.region().id) copy(run);
    });
  }
  /// Pages whose content is not the area's.
  [[nodiscard]] std::vector<std::uint64_t> stale() const {
    std::vector<std::uint64_t> pages;
    for (std::uint64_t i = 0; i < area_.pages(); ++i) {
      if (!std::equal(words_.begin() + static_cast<std::ptrdiff_t>(i * kWords),
                      words_.begin() + static_cast<std::ptrdiff_t>((i + 1) * kWords), word(i))) {
        pages.push_back(i);
      }
    }
    return pages;
  }

 private:
  static constexpr std::uint64_t kWords = kPageSize / 8;
  std::uint64_t* word(std::uint64_t page) const {
    return reinterpret_cast<std::uint64_t*>(area_.page(page));
  }
  void copy(PageRange run) {
    const std::uint64_t first = run.first - area_.region().range.first;
    for (std::uint64_t i = first * kWords; i < (first + run.count) * kWords; ++i) {
      // A word at a time: writers run beside.
      words_[i] = std::atomic_ref<std::uint64_t>(word(0)[i]).load(std::memory_order_relaxed);
    }
  }

  const MappedArea& area_;
  std::vector<std::uint64_t> words_;
};

}  // namespace migrate::testing
