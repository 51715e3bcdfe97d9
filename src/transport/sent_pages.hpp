// SentPages: what some pages were when they were last sent, to send only what has changed in them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/mutex.hpp"
#include "migrate/memory.hpp"
#include "wire/delta.hpp"

namespace migrate {

/// Bounded, and for the writable working set: pages come in when they are sent for a second time,
/// in another round than the first, which sends all. Any thread; two threads must not ask for one
/// page at a time.
class SentPages {
 public:
  /// Memory is taken from the system as pages come in. 0 bytes: nothing is ever kept.
  explicit SentPages(std::size_t bytes);
  ~SentPages();
  SentPages(const SentPages&) = delete;
  SentPages& operator=(const SentPages&) = delete;

  /// `content` is about to be sent as the page's new content, whose hash is `hash`, in `round`; the
  /// target has the content with hash `known` (PageLedger). Writes the difference to `into` and
  /// says how many bytes it is: 0 where the old content is not here, or a delta does not pay. Keeps
  /// the new content.
  std::size_t replace(std::uint32_t handle, std::uint64_t page,
                      std::span<const std::byte, kPageSize> content, std::uint64_t hash,
                      std::uint64_t known, std::uint32_t round,
                      std::span<std::byte, wire::kDeltaPaysBytes> into);

 private:
  // A page has so many places. Of them the one that was not sent for the longest time gives way,
  // unless it was sent in this round or the one before: then the newcomer is not kept, so that a
  // set larger than this does not push itself out in every round.
  static constexpr std::size_t kWays = 4;
  static constexpr std::size_t kLocks = 64;
  struct Place {
    std::uint64_t page = 0;
    std::uint64_t hash = 0;  ///< Of the content kept.
    std::uint32_t handle = 0;
    std::uint32_t round = 0;
    bool used = false;
  };
  Place* find(std::size_t set, std::uint32_t handle, std::uint64_t page);
  Place* make_room(std::size_t set, std::uint32_t round);
  [[nodiscard]] std::span<std::byte, kPageSize> content_of(const Place& place);

  std::vector<Place> places_;  // Each guarded by locks_[its set % kLocks], as its content is.
  std::byte* contents_ = nullptr;
  std::size_t contents_bytes_ = 0;
  std::array<Mutex, kLocks> locks_;
};

}  // namespace migrate
