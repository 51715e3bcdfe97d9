// GuestRam: the devices' only way to guest memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "migrate/kvm_slot.hpp"
#include "migrate/memory.hpp"
#include "migrate/trackers.hpp"

namespace migrate::vmm {

/// Guest memory by guest address, every access checked against the slots. An access never crosses
/// from one slot to the next: between them may be a hole, and their memory here lies apart.
///
/// The guest may write at any moment what is read here, so nothing is read twice: values are copied
/// out and then judged. What is written is marked as dirty once it is written. Any thread.
class GuestRam {
 public:
  /// The memory of `slots` must outlive it. `writes` may be null: nothing is marked then.
  GuestRam(std::span<const KvmMemorySlot> slots, std::shared_ptr<SoftwareBitmap> writes)
      : slots_(slots.begin(), slots.end()), writes_(std::move(writes)) {}

  /// The memory itself, for I/O straight into it or out of it; nullopt when it is not all in one
  /// slot, or `writable` and the slot is not. Who writes to it calls written() when the write is
  /// complete, and before the guest is told of it.
  [[nodiscard]] std::optional<std::span<std::byte>> span(GuestAddr address, std::uint64_t bytes,
                                                         bool writable) const;
  [[nodiscard]] bool contains(GuestAddr address, std::uint64_t bytes, bool writable) const {
    return span(address, bytes, writable).has_value();
  }
  void written(GuestAddr address, std::uint64_t bytes) const noexcept {
    if (writes_ != nullptr && bytes > 0) writes_->mark(address, bytes);
  }

  /// False when the memory is not there.
  [[nodiscard]] bool read(GuestAddr address, std::span<std::byte> into) const;
  [[nodiscard]] bool write(GuestAddr address, std::span<const std::byte> from) const;

  /// A copy of a T; nullopt when it is not there.
  template <typename T>
  [[nodiscard]] std::optional<T> read(GuestAddr address) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    if (!read(address, std::as_writable_bytes(std::span(&value, 1)))) return std::nullopt;
    return value;
  }

  /// One load or store of a whole u16 at an even address, which is how rings' indices are shared
  /// with the guest.
  [[nodiscard]] std::optional<std::uint16_t> load_u16(GuestAddr address,
                                                      std::memory_order order) const;
  [[nodiscard]] bool store_u16(GuestAddr address, std::uint16_t value,
                               std::memory_order order) const;

 private:
  std::vector<KvmMemorySlot> slots_;
  std::shared_ptr<SoftwareBitmap> writes_;
};

}  // namespace migrate::vmm
