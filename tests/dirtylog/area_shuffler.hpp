// A thread of the writer process that does to its memory whatever a memory map allows, side by
// side: pieces of one area are written, moved away and back between their neighbours, emptied,
// unmapped and mapped anew.
#pragma once

#include <atomic>
#include <cstdint>

struct Shuffling {
  std::uint64_t seed = 1;    ///< The same begins alike.
  std::uint64_t writes = 1;  ///< Between two changes of the map.
  std::uint64_t pieces = 0;  ///< At most kPiecesMax.
  bool huge = false;         ///< Pieces are huge pages, not 64 KiB.
};

/// Until `stop`. Uses addresses where nothing else is mapped. Counts what it has changed.
void shuffle_area(const Shuffling& how, const std::atomic<bool>& stop,
                  std::atomic<std::uint64_t>& changes);

/// What of the address space is used.
constexpr std::uint64_t kPiecesMax = 24;
constexpr std::uint64_t kShuffledArea = std::uint64_t{0x1000'0000'0000};
constexpr std::uint64_t kShuffledBytes = 2 * kPiecesMax * (std::uint64_t{2} << 20);
