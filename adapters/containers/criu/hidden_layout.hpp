// How the list of hidden areas, and what was read of /proc in CRIU's stead, lie in their memfd
// (hidden_areas.hpp), and how the shim is told of it. Included by the shim, so no library behind
// it.
#pragma once

#include <cstdint>

namespace migrate::containers {

inline constexpr std::uint64_t kHiddenMagic = 0x3261657264696848;  // "Hidarea2", little-endian.

struct HiddenHeader {
  std::uint64_t magic = kHiddenMagic;
  std::uint64_t count = 0;
  std::uint64_t smaps_count = 0;    ///< Texts that are there.
  std::uint64_t smaps_awaited = 0;  ///< 1 while more are being read.
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

/// A process's /proc/PID/smaps as text, somewhere behind the table. The table begins at kSmapsAt.
struct SmapsEntry {
  std::uint64_t pid = 0;
  std::uint64_t at = 0;
  std::uint64_t bytes = 0;
};
inline constexpr std::uint64_t kSmapsAt = kHiddenBytesMax;
inline constexpr std::uint64_t kSmapsCountMax = 4096;
inline constexpr std::uint64_t kSmapsTextAt = kSmapsAt + kSmapsCountMax * sizeof(SmapsEntry);

/// The environment variable that holds the memfd's number.
inline constexpr char kHiddenVariable[] = "MIGRATE_CRIU_HIDDEN";

}  // namespace migrate::containers
