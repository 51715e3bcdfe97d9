// Virtqueue: the device's side of a split virtqueue (virtio 1.2, section 2.7).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "adapters/kvm/vmm/devices/first_pages.hpp"
#include "adapters/kvm/vmm/devices/guest_ram.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// Entries of a queue: what QEMU gives its network and block devices. Also the most parts of a
/// chain, in an indirect table too, so a driver's longest request is known.
inline constexpr std::uint16_t kQueueSizeMax = 256;

/// Where the driver has put a queue.
struct QueueLayout {
  std::uint16_t size = 0;
  GuestAddr descriptors;
  GuestAddr available;
  GuestAddr used;
  friend bool operator==(const QueueLayout&, const QueueLayout&) = default;
};

/// Guest memory that was there when the chain was taken; slots do not go away.
struct ChainPart {
  GuestAddr address;
  std::uint32_t bytes = 0;
  friend bool operator==(const ChainPart&, const ChainPart&) = default;
};

/// One request of the driver: what the device reads, then what it writes.
struct Chain {
  std::uint16_t head = 0;
  std::vector<ChainPart> readable;
  std::vector<ChainPart> writable;
  std::uint32_t readable_bytes = 0;
  std::uint32_t writable_bytes = 0;
};

/// All the guest says is checked; an error (kGuest) means that the driver broke the rules, and the
/// device then wants a reset. Each value is read once. One thread at a time; who that is, the
/// device and its transport agree on.
class Virtqueue {
 public:
  struct Features {
    bool indirect = false;     ///< VIRTIO_F_INDIRECT_DESC
    bool event_index = false;  ///< VIRTIO_F_EVENT_IDX
  };

  /// `ram` must outlive it.
  explicit Virtqueue(const GuestRam& ram) : ram_(ram) {}

  /// Whether a queue may lie there: kGuest when its size is none, its parts are not aligned, or not
  /// in memory.
  [[nodiscard]] static Status check(const GuestRam& ram, const QueueLayout& layout);

  /// Goes to work at entry `next` of the ring: 0 for a new queue, next() of a drained one that has
  /// moved. `layout` has passed check().
  void start(const QueueLayout& layout, const Features& features, std::uint16_t next = 0);
  void stop() { layout_ = {}; }
  [[nodiscard]] bool started() const { return layout_.size != 0; }
  /// Number of the next request to take. With no request in flight this is all of its state.
  [[nodiscard]] std::uint16_t next() const { return next_; }

  /// Whether a request waits.
  [[nodiscard]] Result<bool> waiting() const;
  /// Takes the next request; false when there is none.
  [[nodiscard]] Result<bool> take(Chain& chain);
  /// Undoes the last take(): the request stays in the ring.
  void put_back() { --next_; }
  /// Gives the request back, its first `written` writable bytes filled. Marks its writable memory,
  /// which must have been written by now, as dirty; then tells the guest.
  void complete(const Chain& chain, std::uint32_t written);
  /// Whether the guest wants to be interrupted for what was completed since this was asked last.
  [[nodiscard]] bool wants_interrupt();
  /// Asks the guest to notify when it adds a request. True: one has come meanwhile, take it.
  [[nodiscard]] Result<bool> await_notification();

  /// Names the rings, the buffers of the requests that were completed last, and those of the ones
  /// that wait, up to kFirstBufferPages of buffers. With no request in flight.
  void add_first_pages(FirstPages& pages) const;
  /// 0.5 MiB a queue, 4 ms at 1 Gbit/s: they are sent while the guest stands.
  static constexpr std::uint64_t kFirstBufferPages = 128;

 private:
  struct Descriptor;
  struct Table {
    GuestAddr address;
    std::uint32_t entries = 0;
    bool indirect = false;
  };
  [[nodiscard]] Result<std::uint16_t> count_waiting() const;
  [[nodiscard]] Status walk(const Table& table, std::uint16_t first, Chain& chain) const;
  [[nodiscard]] Result<Table> indirect_table(const Table& outer, const Descriptor& entry) const;
  [[nodiscard]] Status add_part(const Descriptor& entry, Chain& chain) const;
  [[nodiscard]] std::uint16_t count_unseen() const;
  void add_buffers(std::uint16_t head, FirstPages& pages, std::uint64_t& left) const;
  [[nodiscard]] GuestAddr used_event() const;
  [[nodiscard]] GuestAddr available_event() const;

  const GuestRam& ram_;
  QueueLayout layout_;
  Features features_;
  std::uint16_t next_ = 0;   ///< In the available ring.
  std::uint16_t used_ = 0;   ///< In the used ring.
  std::uint16_t told_ = 0;   ///< `used_` when an interrupt was decided on last.
  bool told_known_ = false;  ///< False: interrupt anyway.
};

}  // namespace migrate::vmm
