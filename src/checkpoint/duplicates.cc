#include "checkpoint/duplicates.hpp"

#include <algorithm>
#include <bit>

namespace migrate::checkpoint {
namespace {

// Equal pages beyond this distance are stored again. 4 Mi entries are 64 MiB, for 64 GiB of guest.
constexpr std::uint64_t kEntriesMin = 4 << 10;
constexpr std::uint64_t kEntriesMax = 4 << 20;
constexpr std::uint64_t kPagesPerEntry = 4;

}  // namespace

Duplicates::Duplicates(std::uint64_t pages)
    : mask_(std::bit_ceil(std::clamp(pages / kPagesPerEntry, kEntriesMin, kEntriesMax)) - 1),
      entries_(std::make_unique<Entry[]>(mask_ + 1)) {}

}  // namespace migrate::checkpoint
