// The data path, measured: guests of each content move with each way of packing, in turns, beside a
// pump of the same memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/content_pump.hpp"
#include "bench/loopback_migration.hpp"

namespace migrate::bench {

/// What all rows of a matrix share.
struct MatrixSetup {
  std::vector<const Link*> links;
  std::uint64_t memory_bytes = 2ull << 30;
  unsigned lanes = 2;
  unsigned repeats = 3;
  Strategy strategy = Strategy::kAuto;
  bool writing = false;         ///< The guest runs, and writes 200 MB/s in 256 MB.
  std::vector<PumpWork> pumps;  ///< Of each run's memory, just before it moves.
  std::vector<std::string> contents = {"mixed", "zero", "text", "random"};
  std::vector<std::string> compress = {"none", "zstd:1", "auto"};
};

struct PumpSamples {
  PumpWork work = PumpWork::kMoved;
  Samples ms, cpu_s;
  Samples speed;  ///< The migration's speed over this pump's, of the same run.
};

/// One content and one way of packing over one link.
struct Row {
  const Link* over = nullptr;  ///< While the matrix runs.
  std::string content, compress, link;
  bool writing = false;
  double link_bytes_per_s = 0;
  std::uint64_t memory_bytes = 0;
  Samples total_ms;  ///< Of the whole migration.
  Samples once_ms;   ///< Of the round that takes every page once.
  Samples wire_bytes, cpu_s, downtime_ms, compressed_pages;
  Samples scan_speed;  ///< The migration's speed over a zero scan's on all cores, where measured.
  std::vector<PumpSamples> pumps;

  [[nodiscard]] double guest_gb_per_s() const {
    return static_cast<double>(memory_bytes) / 1e6 / total_ms.median();
  }
  [[nodiscard]] double cpu_s_per_gib() const {
    return cpu_s.median() / (static_cast<double>(memory_bytes) / (1ull << 30));
  }
  /// Guest bytes a second over the link's; 0 without a shaped one.
  [[nodiscard]] double multiple_of_link() const {
    return link_bytes_per_s > 0 ? guest_gb_per_s() * 1e9 / link_bytes_per_s : 0;
  }
};

/// Runs every content with every way of packing over every link once, then all again. A paused
/// guest's memory is compared byte for byte after each run; one that writes moves once more, first,
/// with both sides' memory hashed in full.
[[nodiscard]] std::vector<Row> run_matrix(const MatrixSetup& setup);

/// `bytes` of zeros that are there, beside a zero scan of them on all cores.
[[nodiscard]] Row run_zeros(std::uint64_t bytes, unsigned lanes, unsigned repeats);

/// The guest memory of this content as a file: what run_matrix() moves.
void write_image(const std::string& file, const std::string& content, std::uint64_t bytes);

/// The row of these; gives up where it was not measured.
[[nodiscard]] const Row& row_of(const std::vector<Row>& rows, const Link& link,
                                std::string_view content, std::string_view compress);

}  // namespace migrate::bench
