// Sets of a trace's pages: as runs in memory, as runs or words in a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "migrate/dirty_trace.hpp"
#include "migrate/memory.hpp"

namespace migrate::forecast {

/// How a set stands in a file. Pinned; see docs/trace-format.md.
enum class PageSetForm : std::uint8_t { kRuns = 0, kWords = 1 };

struct PackedPages {
  PageSetForm form = PageSetForm::kRuns;
  std::vector<std::byte> bytes;
};

/// Whether `pages` are runs as TracePages promises, of a trace of `total` pages.
[[nodiscard]] bool is_in_order(const TracePages& pages, std::uint64_t total);

/// In whichever form is shorter. `pages` must be in order.
[[nodiscard]] PackedPages pack(const TracePages& pages, std::uint64_t total);

/// The other way, of bytes that may hold anything. `offset`: of bytes[0], for errors. At most
/// `runs_max` runs. kIntegrity.
[[nodiscard]] Result<TracePages> unpack(PageSetForm form, std::span<const std::byte> bytes,
                                        std::uint64_t total, std::size_t runs_max,
                                        std::uint64_t offset);

/// The set's pages, numbered through its regions.
[[nodiscard]] TracePages number_pages(const PageBitmap& set);

[[nodiscard]] std::uint64_t count(const TracePages& pages);

}  // namespace migrate::forecast
