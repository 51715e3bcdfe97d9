// The golden streams, valid and invalid, and the vectors of the hash: made from code, kept as
// files.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace migrate::wire::testing {

struct GoldenFile {
  std::string name;
  std::vector<std::byte> bytes;
};

[[nodiscard]] std::vector<GoldenFile> make_golden_files();

/// The part of them that is about deltas, duplicates and packed batches.
void add_content_streams(std::vector<GoldenFile>& files);
/// And about pages that follow the guest.
void add_lazy_streams(std::vector<GoldenFile>& files);

}  // namespace migrate::wire::testing
