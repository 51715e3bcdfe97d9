// What tests and their tiny kernel agree on. Freestanding: also compiled into the kernel.
#pragma once

#include <cstdint>

namespace migrate::vmm::tiny {

// Beyond its program, and beyond the first MiB, which a restart clears.
inline constexpr std::uint64_t kShared = 0x600000;
inline constexpr std::uint64_t kDescriptors = 0x601000;
inline constexpr std::uint64_t kAvailable = 0x602000;
inline constexpr std::uint64_t kUsed = 0x603000;
inline constexpr std::uint64_t kHeader = 0x604000;
inline constexpr std::uint64_t kData = 0x605000;
inline constexpr std::uint64_t kStatus = 0x606000;

inline constexpr std::uint64_t kSectors = 64;  ///< Of the disk, written in turn.
inline constexpr std::uint64_t kSectorWords = 64;

enum class Order : std::uint64_t { kNone = 0, kOff, kReset, kPanic, kTripleFault };

struct Shared {
  std::uint64_t starts;  ///< How often the kernel has begun.
  std::uint64_t rounds;  ///< Sectors written, and read back.
  std::uint64_t errors;
  std::uint64_t empty_port;    ///< What a port that nothing answers reads.
  std::uint64_t empty_memory;  ///< And an address.
  std::uint64_t order;         ///< The test's.
};

}  // namespace migrate::vmm::tiny
