// The images of tests/checkpoint/golden, from seeds: what readers must take and what they must not.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace migrate::checkpoint::testing {

struct GoldenImage {
  std::string name;
  std::vector<std::byte> bytes;
  std::string verdict;  ///< "valid", or the name of the error code.
};
[[nodiscard]] std::vector<GoldenImage> make_golden_images();
/// What verdicts.txt says: a line "NAME VERDICT" each.
[[nodiscard]] std::string verdicts_text(const std::vector<GoldenImage>& images);

}  // namespace migrate::checkpoint::testing
