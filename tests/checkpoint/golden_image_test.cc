#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include "migrate/image.hpp"
#include "tests/checkpoint/golden_images.hpp"
#include "tests/checkpoint/image_maker.hpp"

namespace migrate::checkpoint::testing {
namespace {

const std::filesystem::path kGolden = MIGRATE_GOLDEN_IMAGES;

TEST(GoldenImages, AreStillMadeTheSame) {
  const auto images = make_golden_images();
  for (const GoldenImage& image : images) {
    EXPECT_TRUE(read_file(kGolden / image.name) == image.bytes) << image.name;
  }
  const auto bytes = read_file(kGolden / "verdicts.txt");
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  EXPECT_EQ(text, verdicts_text(images));
  const auto files = std::distance(std::filesystem::directory_iterator(kGolden), {});
  EXPECT_EQ(static_cast<std::size_t>(files), images.size() + 1);
}

// verify_image_test.py asks the same of the independent checker.
TEST(GoldenImages, HaveTheirVerdicts) {
  for (const GoldenImage& image : make_golden_images()) {
    const auto verified = verify_image(kGolden / image.name);
    const std::string verdict = verified ? "valid" : std::string(to_string(verified.error().code));
    EXPECT_EQ(verdict, image.verdict)
        << image.name << ": " << (verified ? "" : verified.error().to_text());
  }
}

}  // namespace
}  // namespace migrate::checkpoint::testing
