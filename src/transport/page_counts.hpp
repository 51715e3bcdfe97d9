// How pages were carried, on either side.
#pragma once

#include <cstdint>

namespace migrate {

struct PageCounts {
  std::uint64_t raw = 0;         ///< Whole, in batches that were not packed.
  std::uint64_t zero = 0;        ///< As zero; at the source also those that were zero already.
  std::uint64_t delta = 0;       ///< As what has changed in them.
  std::uint64_t duplicate = 0;   ///< As the name of another page.
  std::uint64_t compressed = 0;  ///< Whole, in packed batches.
  std::uint64_t carried = 0;     ///< Represented by records, as the barrier counts them.
  std::uint64_t digest_change = 0;

  PageCounts& operator+=(const PageCounts& other) {
    raw += other.raw;
    zero += other.zero;
    delta += other.delta;
    duplicate += other.duplicate;
    compressed += other.compressed;
    carried += other.carried;
    digest_change += other.digest_change;
    return *this;
  }
};

}  // namespace migrate
