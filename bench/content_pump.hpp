// ContentPump: what a migration of given memory could be at most. The same pages go over as many
// connections with the same work on each and nothing else: no ledger, no protocol, into memory that
// is there already.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "bench/link.hpp"

namespace migrate::bench {

/// What is done to each page beside moving it where it is not zero.
enum class PumpWork : std::uint8_t {
  kMoved,    ///< Nothing: which pages are zero is known before the time starts.
  kScanned,  ///< Zero check at the source.
  kHashed,   ///< Zero check at the source, and a hash of the others on both sides.
};
[[nodiscard]] std::string_view to_string(PumpWork work);

struct PumpRun {
  double ms = 0;
  double cpu_s = 0;  ///< Both sides.
  std::uint64_t moved_bytes = 0;
};

/// Moves `from` to `to`, which has as many whole pages and is cleared before, over `lanes` new
/// connections with a thread at each end. Gives up when memory arrives changed.
[[nodiscard]] PumpRun run_pump(const Link& link, unsigned lanes, PumpWork work,
                               std::span<const std::byte> from, std::span<std::byte> to);

/// Looks at every page for being zero, on all cores; milliseconds.
[[nodiscard]] double scan_on_all_cores(std::span<const std::byte> memory);

}  // namespace migrate::bench
