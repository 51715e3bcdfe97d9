// What a test asks of the writer process, and how: one command and one answer at a time over a
// SOCK_SEQPACKET socket, which is descriptor 3 there. The process ends when its end is closed.
#pragma once

#include <cstdint>

namespace migrate::testing {

enum class WriterOrder : std::uint32_t {
  kMap = 1,     ///< `pages` of anonymous memory at `address`: an area.
  kTouch = 2,   ///< Count up a word of the first page of each `stride` pages.
  kPut = 3,     ///< Set that word to `value`.
  kResume = 4,  ///< Writer number `value` (WriterNumber).
  kPause = 5,   ///< The same; answered when it stands.
  kWrites = 6,  ///< How much it has written.
};

enum WriterNumber : std::uint64_t {
  kWriterStores = 0,
  kWriterRead = 1,
  kWriterMappings = 2,  ///< Changes its own mappings, and forks, far from the areas.
  kWriters = 3,
};

struct WriterCommand {
  WriterOrder order = WriterOrder::kMap;
  std::uint32_t padding = 0;
  std::uint64_t address = 0;
  std::uint64_t pages = 0;
  std::uint64_t stride = 1;
  std::uint64_t value = 0;
};
struct WriterAnswer {
  std::uint64_t value = 0;
};

inline constexpr int kWriterSocket = 3;
/// Areas are mapped here and above, the mappings that come and go below.
inline constexpr std::uint64_t kWriterAreas = 0x200'0000'0000;
inline constexpr std::uint64_t kWriterChanging = 0x100'0000'0000;

}  // namespace migrate::testing
