#include "memory_use.hpp"

#include <cerrno>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace migrate::tool {

Result<Json> memory_use() {
  std::ifstream file("/proc/self/smaps_rollup");
  std::uint64_t own = 0, shared = 0, proportional = 0;
  bool known = false;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string key;
    std::uint64_t kib = 0;
    if (!(words >> key >> kib)) continue;
    const std::uint64_t bytes = kib << 10;
    if (key == "Private_Clean:" || key == "Private_Dirty:" || key == "Private_Hugetlb:")
      own += bytes;
    if (key == "Shared_Clean:" || key == "Shared_Dirty:" || key == "Shared_Hugetlb:")
      shared += bytes;
    if (key == "Pss:") {
      proportional = bytes;
      known = true;
    }
  }
  if (!known) {
    return make_errno_error(ErrorCode::kUnsupported, errno,
                            "this kernel does not tell what memory a process has");
  }
  return Json{
      {"private_bytes", own}, {"shared_bytes", shared}, {"proportional_bytes", proportional}};
}

}  // namespace migrate::tool
