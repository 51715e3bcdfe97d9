#include "adapters/kvm/vmm/guest_memory.hpp"

#include <linux/mman.h>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <fstream>
#include <optional>

#include "adapters/kvm/vmm/demo_guest/layout.hpp"
#include "base/huge_pages.hpp"
#include "migrate/options.hpp"

namespace migrate::vmm {
namespace {

// One page table of 4 KiB pages. Filling it by one fault takes a fifth of the time of 512 of them,
// which is most of what receiving costs.
constexpr std::size_t kHugePage = 2 << 20;

// The kernel takes 79 bytes, without a few signs that the names of guests do not have.
constexpr std::size_t kNameMax = 60;

std::byte* align(std::byte* address) {
  const auto number = reinterpret_cast<std::uintptr_t>(address);
  return address + ((number + kHugePage - 1) / kHugePage * kHugePage - number);
}

/// What the kernel thinks can be had without swapping; nullopt where it does not say.
std::optional<std::uint64_t> available_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  std::string unit;
  std::uint64_t kib = 0;
  while (meminfo >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    std::getline(meminfo, unit);
  }
  return std::nullopt;
}

Status check_available(std::uint64_t bytes) {
  const auto available = available_bytes();
  if (!available || *available >= bytes) return {};
  return make_error(ErrorCode::kNoMemory, "the guest needs " + format_size(bytes) +
                                              " of memory, and this host has " +
                                              format_size(*available) + " available")
      .advise("free memory on this host, or choose another or a smaller guest");
}

}  // namespace

Result<GuestMemory> GuestMemory::create(const std::string& name, std::uint64_t bytes,
                                        std::uint64_t huge_page_bytes) {
  MIGRATE_CHECK(bytes > 0 && bytes % kPageSize == 0);
  if (huge_page_bytes != 0) return of_huge_pages(bytes, huge_page_bytes);
  MIGRATE_TRY(check_available(bytes));
  void* const mapping = ::mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) {
    return make_errno_error(ErrorCode::kNoMemory, errno,
                            "cannot map " + format_size(bytes) + " of guest memory")
        .advise("raise the limit of address space (ulimit -v)");
  }
  auto* const address = align(static_cast<std::byte*>(mapping));
  // Both only help: without huge pages a guest is slower to fill, without a name /proc says less.
  (void)::madvise(address, bytes, MADV_HUGEPAGE);
  (void)::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, address, bytes,
                ("migrate-guest-" + name.substr(0, kNameMax)).c_str());
  return GuestMemory(mapping, bytes + kHugePage, address, bytes, Backing::kAnonymous);
}

Result<GuestMemory> GuestMemory::of_huge_pages(std::uint64_t bytes, std::uint64_t huge_page_bytes) {
  MIGRATE_TRY(check_huge_pages(bytes, huge_page_bytes, read_huge_page_pool(huge_page_bytes)));
  // Never MAP_NORESERVE: a page that the pool has not got when it is touched kills the process.
  const auto log2 = static_cast<unsigned>(std::countr_zero(huge_page_bytes));
  void* const mapping = ::mmap(
      nullptr, bytes, PROT_READ | PROT_WRITE,
      MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | static_cast<int>(log2 << MAP_HUGE_SHIFT), -1, 0);
  if (mapping == MAP_FAILED) {
    return make_errno_error(ErrorCode::kNoMemory, errno,
                            "cannot reserve " + format_size(bytes) + " of huge pages of " +
                                format_size(huge_page_bytes))
        .advise("reserve more of them (" + huge_page_setting(huge_page_bytes) +
                "), raise the limit of address space (ulimit -v), or leave out --huge-pages");
  }
  return GuestMemory(mapping, bytes, static_cast<std::byte*>(mapping), bytes, Backing::kHugetlb);
}

GuestMemory::GuestMemory(void* mapping, std::uint64_t mapped_bytes, std::byte* address,
                         std::uint64_t bytes, Backing backing)
    : mapping_(mapping), address_(address), bytes_(bytes), mapped_bytes_(mapped_bytes) {
  const auto add = [this, backing](std::uint64_t guest_address, std::uint64_t offset,
                                   std::uint64_t size) {
    KvmMemorySlot slot;
    slot.slot = static_cast<std::uint32_t>(slots_.size());
    slot.guest_address = GuestAddr{guest_address};
    slot.bytes = size;
    slot.host = address_ + offset;
    slot.backing = backing;
    slots_.push_back(slot);
  };
  const std::uint64_t low = std::min(bytes, demo::kLowMemoryMax);
  add(0, 0, low);
  if (bytes > low) add(demo::kHighMemoryBase, low, bytes - low);
}

GuestMemory::~GuestMemory() {
  if (mapping_ != nullptr) ::munmap(mapping_, mapped_bytes_);
}

}  // namespace migrate::vmm
