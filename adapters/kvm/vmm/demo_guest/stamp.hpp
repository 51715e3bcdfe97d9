// The stamp a writer leaves on a page: its number, a generation and a checksum. Freestanding: also
// compiled into the guest.
#pragma once

#include "adapters/kvm/vmm/demo_guest/fill.hpp"

namespace migrate::vmm::demo {

/// Words 0 to 7 of a page, and its last word.
struct Stamp {
  std::uint64_t page = 0;
  std::uint64_t generation = 0;
  std::uint64_t noise[5] = {};  ///< So that a rewritten page differs in more than a counter.
  std::uint64_t checksum = 0;
  std::uint64_t tail = 0;  ///< Last word of the page: finds one of which only a part arrived.
  friend constexpr bool operator==(const Stamp&, const Stamp&) = default;
};

/// Never right for a page of zeros: mix(0) is 0, so the page's number is not used bare.
constexpr std::uint64_t checksum_of(const Stamp& stamp) {
  std::uint64_t sum = mix(stamp.page + kGolden) + stamp.generation;
  for (const std::uint64_t word : stamp.noise) sum = mix(sum ^ word);
  return sum;
}

constexpr Stamp make_stamp(std::uint64_t seed, std::uint64_t page, std::uint64_t generation) {
  Stamp stamp{page, generation, {}, 0, 0};
  const std::uint64_t base = page_base(seed ^ generation, page);
  for (std::uint64_t i = 0; i < 5; ++i) stamp.noise[i] = random_word(base, i);
  stamp.checksum = checksum_of(stamp);
  stamp.tail = mix(stamp.checksum + 1);
  return stamp;
}

constexpr Stamp read_stamp(const std::uint64_t* words) {
  Stamp stamp;
  stamp.page = words[0];
  stamp.generation = words[1];
  for (std::uint64_t i = 0; i < 5; ++i) stamp.noise[i] = words[2 + i];
  stamp.checksum = words[kStampWords - 1];
  stamp.tail = words[kInsideEnd];
  return stamp;
}

constexpr void write_stamp(std::uint64_t* words, const Stamp& stamp) {
  words[0] = stamp.page;
  words[1] = stamp.generation;
  for (std::uint64_t i = 0; i < 5; ++i) words[2 + i] = stamp.noise[i];
  words[kStampWords - 1] = stamp.checksum;
  words[kInsideEnd] = stamp.tail;
}

/// Why `found` is not the stamp of `page` and `generation`; kNone when it is.
constexpr ErrorKind judge_stamp(std::uint64_t seed, std::uint64_t page, std::uint64_t generation,
                                const Stamp& found) {
  if (found == make_stamp(seed, page, generation)) return ErrorKind::kNone;
  if (found.checksum != checksum_of(found)) return ErrorKind::kCorrupt;
  if (found.page != page) return ErrorKind::kMisplaced;
  return found.generation != generation ? ErrorKind::kStale : ErrorKind::kCorrupt;
}

}  // namespace migrate::vmm::demo
