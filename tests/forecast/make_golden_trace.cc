// Writes the golden trace; run by hand: make_golden_trace FILE.
#include <cstdio>

#include "sample_traces.hpp"

int main(int argc, char** argv) {
  const auto bytes = migrate::encode_trace(migrate::testing::full_trace());
  if (argc != 2 || !bytes) return 1;
  std::FILE* file = std::fopen(argv[1], "wb");
  if (file == nullptr) return 1;
  const bool written = std::fwrite(bytes->data(), 1, bytes->size(), file) == bytes->size();
  return std::fclose(file) == 0 && written ? 0 : 1;
}
