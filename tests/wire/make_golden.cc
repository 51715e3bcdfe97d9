// make_golden FOLDER: writes the golden streams anew, after a deliberate change of the format
// (which is a new version: see "Growth" in docs/wire-format.md).
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "tests/wire/golden_streams.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_golden FOLDER\n");
    return 2;
  }
  const std::filesystem::path folder(argv[1]);
  for (const auto& golden : migrate::wire::testing::make_golden_files()) {
    const std::filesystem::path path = folder / golden.name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(golden.bytes.data()),
               static_cast<std::streamsize>(golden.bytes.size()));
    file.close();
    if (!file) {
      std::fprintf(stderr, "make_golden: cannot write %s\n", path.c_str());
      return 1;
    }
  }
  return 0;
}
