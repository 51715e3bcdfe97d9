// GuestRam: memory of each kind that can be filled lazily, as the target's guest has it.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <span>
#include <string>

#include "base/fd.hpp"
#include "migrate/memory.hpp"
#include "tests/support/huge_pages.hpp"

namespace migrate::test {

enum class RamKind { kAnonymous, kTransparentHuge, kMemfd, kHugetlb, kHugetlbMemfd };

inline bool is_hugetlb(RamKind kind) {
  return kind == RamKind::kHugetlb || kind == RamKind::kHugetlbMemfd;
}

inline const char* name_of(RamKind kind) {
  switch (kind) {
    case RamKind::kAnonymous:
      return "Anonymous";
    case RamKind::kTransparentHuge:
      return "TransparentHuge";
    case RamKind::kMemfd:
      return "Memfd";
    case RamKind::kHugetlb:
      return "Hugetlb";
    case RamKind::kHugetlbMemfd:
      return "HugetlbMemfd";
  }
  return "";
}

/// One region of it.
class GuestRam final : public PageSink {
 public:
  static constexpr std::uint64_t kHugeBytes = 2 << 20;

  GuestRam(RamKind kind, std::uint64_t pages) : bytes_(pages * kPageSize) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (kind == RamKind::kHugetlb) flags |= MAP_HUGETLB;
    if (kind == RamKind::kMemfd || kind == RamKind::kHugetlbMemfd) {
      const unsigned huge = kind == RamKind::kHugetlbMemfd ? MFD_HUGETLB : 0;
      file_ = Fd(::memfd_create("guest", MFD_CLOEXEC | huge));
      if (!file_ || ::ftruncate(file_.get(), static_cast<off_t>(bytes_)) != 0) return;
      flags = MAP_SHARED;
    }
    // On a huge page, so that the kernel may take one.
    const std::size_t room = bytes_ + (is_hugetlb(kind) ? 0 : kHugeBytes);
    void* const area = ::mmap(nullptr, room, PROT_READ | PROT_WRITE, flags, file_.get(), 0);
    if (area == MAP_FAILED) return;
    area_ = {static_cast<std::byte*>(area), room};
    const auto address = reinterpret_cast<std::uintptr_t>(area);
    const std::size_t skip = is_hugetlb(kind) || kind == RamKind::kMemfd
                                 ? 0
                                 : (kHugeBytes - address % kHugeBytes) % kHugeBytes;
    memory_ = area_.subspan(skip, bytes_);
    if (kind == RamKind::kTransparentHuge) ::madvise(memory_.data(), bytes_, MADV_HUGEPAGE);
  }
  ~GuestRam() override {
    if (!area_.empty()) ::munmap(area_.data(), area_.size());
  }
  GuestRam(const GuestRam&) = delete;
  GuestRam& operator=(const GuestRam&) = delete;

  [[nodiscard]] bool valid() const { return !memory_.empty(); }
  [[nodiscard]] std::span<std::byte> bytes() { return memory_; }
  [[nodiscard]] std::span<std::byte> page(std::uint64_t number) {
    return memory_.subspan(number * kPageSize, kPageSize);
  }

  Status update_regions(const RegionDelta&) override { return {}; }
  Status write(const RegionId&, PageRange, std::span<const std::byte>) override { return {}; }
  Status zero(const RegionId&, PageRange) override { return {}; }
  Status read(const RegionId&, PageRange, std::span<std::byte>) override { return {}; }
  std::span<std::byte> mapped(const RegionId&) override { return memory_; }

 private:
  std::size_t bytes_;
  Fd file_;
  std::span<std::byte> area_;
  std::span<std::byte> memory_;
};

}  // namespace migrate::test
