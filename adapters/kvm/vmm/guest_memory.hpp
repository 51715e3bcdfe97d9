// GuestMemory: the guest's memory, private, of ordinary or of huge pages, in one or two slots.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "migrate/kvm_slot.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// Does not move after create(): slots and spans stay good for as long as it lives.
class GuestMemory {
 public:
  /// Memory that reads as zero; nothing is allocated until it is touched, and then by huge pages
  /// where the host gives them (transparent_hugepage "madvise" or "always"). With
  /// `huge_page_bytes` it is of the host's pool of those, and reserved from now on. kNoMemory when
  /// the host or the pool has not got that much free; more errors as check_huge_pages().
  static Result<GuestMemory> create(const std::string& name, std::uint64_t bytes,
                                    std::uint64_t huge_page_bytes = 0);
  ~GuestMemory();
  GuestMemory(GuestMemory&& other) noexcept
      : mapping_(std::exchange(other.mapping_, nullptr)),
        address_(std::exchange(other.address_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        mapped_bytes_(std::exchange(other.mapped_bytes_, 0)),
        slots_(std::move(other.slots_)) {}
  GuestMemory& operator=(GuestMemory&&) = delete;

  /// All of it, without the hole below 4 GiB: page i of the demo guest is at i * kPageSize.
  [[nodiscard]] std::span<std::byte> bytes() const {
    return {address_, static_cast<std::size_t>(bytes_)};
  }
  [[nodiscard]] const std::vector<KvmMemorySlot>& slots() const { return slots_; }

  /// A T in the system area, which is mapped one to one.
  template <typename T>
  [[nodiscard]] T* at(std::uint64_t address) const {
    MIGRATE_CHECK(address % alignof(T) == 0 && address + sizeof(T) <= bytes_);
    return reinterpret_cast<T*>(address_ + address);
  }

 private:
  GuestMemory(void* mapping, std::uint64_t mapped_bytes, std::byte* address, std::uint64_t bytes,
              Backing backing);
  static Result<GuestMemory> of_huge_pages(std::uint64_t bytes, std::uint64_t huge_page_bytes);

  void* mapping_ = nullptr;  ///< May be longer than the guest's memory, to align that.
  std::byte* address_ = nullptr;
  std::uint64_t bytes_ = 0;
  std::uint64_t mapped_bytes_ = 0;
  std::vector<KvmMemorySlot> slots_;
};

}  // namespace migrate::vmm
