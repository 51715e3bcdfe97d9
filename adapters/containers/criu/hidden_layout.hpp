// How the list of hidden areas lies in its memfd (hidden_areas.hpp), and how the shim is told of
// it. Included by the shim, so no library behind it.
#pragma once

#include <cstdint>

namespace migrate::containers {

inline constexpr std::uint64_t kHiddenMagic = 0x3161657264696848;  // "Hidarea1", little-endian.

struct HiddenHeader {
  std::uint64_t magic = kHiddenMagic;
  std::uint64_t count = 0;
};
struct HiddenEntry {
  std::uint64_t pid = 0;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};
/// What both sides map, used or not, so that a longer list needs no new mapping. A process has at
/// most 65530 mappings unless vm.max_map_count was raised: room for the areas of forty such.
inline constexpr std::uint64_t kHiddenBytesMax = std::uint64_t{64} << 20;
inline constexpr std::uint64_t kHiddenCountMax =
    (kHiddenBytesMax - sizeof(HiddenHeader)) / sizeof(HiddenEntry);

/// The environment variable that holds the memfd's number.
inline constexpr char kHiddenVariable[] = "MIGRATE_CRIU_HIDDEN";

}  // namespace migrate::containers
