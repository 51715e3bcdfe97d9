// make_golden_images FOLDER: writes the golden images anew, after a deliberate change of the
// format.
#include <cstdio>
#include <span>
#include <string>

#include "tests/checkpoint/golden_images.hpp"
#include "tests/checkpoint/image_maker.hpp"

int main(int argc, char** argv) {
  using namespace migrate::checkpoint::testing;
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_golden_images FOLDER\n");
    return 2;
  }
  const std::string folder = std::string(argv[1]) + "/";
  const auto images = make_golden_images();
  for (const GoldenImage& image : images) write_file(folder + image.name, image.bytes);
  const std::string verdicts = verdicts_text(images);
  write_file(folder + "verdicts.txt", std::as_bytes(std::span(verdicts)));
  return 0;
}
