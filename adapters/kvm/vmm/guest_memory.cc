#include "adapters/kvm/vmm/guest_memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <optional>

#include "adapters/kvm/vmm/demo_guest/layout.hpp"
#include "migrate/options.hpp"

namespace migrate::vmm {
namespace {

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

Result<GuestMemory> GuestMemory::create(const std::string& name, std::uint64_t bytes) {
  MIGRATE_CHECK(bytes > 0 && bytes % kPageSize == 0);
  MIGRATE_TRY(check_available(bytes));
  // The name only shows in /proc; the kernel cuts it at 249 bytes with an error.
  Fd memfd(::memfd_create(("migrate-guest-" + name.substr(0, 64)).c_str(), MFD_CLOEXEC));
  if (!memfd) return make_errno_error(ErrorCode::kIo, errno, "cannot create the guest's memfd");
  if (::ftruncate(memfd.get(), static_cast<off_t>(bytes)) != 0) {
    return make_errno_error(ErrorCode::kNoMemory, errno,
                            "cannot size the guest's memfd to " + format_size(bytes));
  }
  void* const address =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memfd.get(), 0);
  if (address == MAP_FAILED) {
    return make_errno_error(ErrorCode::kNoMemory, errno,
                            "cannot map " + format_size(bytes) + " of guest memory")
        .advise("raise the limit of address space (ulimit -v)");
  }
  return GuestMemory(std::move(memfd), static_cast<std::byte*>(address), bytes);
}

GuestMemory::GuestMemory(Fd memfd, std::byte* address, std::uint64_t bytes)
    : memfd_(std::move(memfd)), address_(address), bytes_(bytes) {
  const auto add = [this](std::uint64_t guest_address, std::uint64_t offset, std::uint64_t size) {
    KvmMemorySlot slot;
    slot.slot = static_cast<std::uint32_t>(slots_.size());
    slot.guest_address = GuestAddr{guest_address};
    slot.bytes = size;
    slot.host = address_ + offset;
    slot.backing = Backing::kMemfd;
    slot.memfd = memfd_.get();
    slot.memfd_offset = offset;
    slots_.push_back(slot);
  };
  const std::uint64_t low = std::min(bytes, demo::kLowMemoryMax);
  add(0, 0, low);
  if (bytes > low) add(demo::kHighMemoryBase, low, bytes - low);
}

GuestMemory::~GuestMemory() {
  if (address_ != nullptr) ::munmap(address_, bytes_);
}

Status GuestMemory::write(std::uint64_t offset, std::span<const std::byte> from) const {
  while (!from.empty()) {
    const ssize_t count =
        ::pwrite(memfd_.get(), from.data(), from.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      return make_errno_error(ErrorCode::kNoMemory, errno, "cannot fill the guest's memory")
          .advise("free memory on this host, or choose a smaller guest");
    }
    from = from.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

}  // namespace migrate::vmm
