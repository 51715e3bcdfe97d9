// replay FOLDER: runs a fuzz target over the files of its corpus, as an ordinary test.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

#include "tests/fuzz/fuzz.hpp"

namespace {

/// In a heap block that ends where the file does, so that a sanitizer sees a read beyond it.
void run(const std::vector<char>& bytes, std::size_t size) {
  const auto tight = std::make_unique<std::uint8_t[]>(size);
  std::copy_n(bytes.begin(), size, tight.get());
  LLVMFuzzerTestOneInput(tight.get(), size);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
    run(bytes, bytes.size());
    // Cut anywhere; a long file in 64 places.
    const std::size_t step = std::max<std::size_t>(1, bytes.size() / 64);
    for (std::size_t size = 0; size < bytes.size(); size += step) run(bytes, size);
    ++files;
  }
  std::printf("%zu inputs\n", files);
  return files == 0 ? 1 : 0;
}
