#include "adapters/containers/criu/criu_version.hpp"

#include <tuple>

namespace migrate::containers {

bool is_at_least(const CriuVersion& version, int major, int minor) {
  return std::tie(version.major, version.minor) >= std::tie(major, minor);
}

std::size_t lazy_message_size(const CriuVersion& version) {
  // {u32 command, u32 pages, u64 address, u64 id}; {u32 command, u64 pages, u64 address, u64 id}.
  return is_at_least(version, 4, 2) ? 32 : 24;
}

Status check_criu_version(const CriuVersion& version) {
  if (is_at_least(version, 4, 1)) return {};
  return make_error(ErrorCode::kUnsupported, "CRIU here is " + version.text + ", too old")
      .advise("install CRIU 4.1 or newer (4.2 on kernels from 6.16 on)");
}

bool shim_works_with(const CriuVersion& version) {
  // By the full number: how CRIU asks for memory is no promise of its, so each one has to be tried.
  const auto number = std::tie(version.major, version.minor, version.sublevel);
  for (const auto& tried : {std::tuple(4, 1, 1), std::tuple(4, 2, 0), std::tuple(4, 2, 1)}) {
    if (number == tried) return true;
  }
  return false;
}

}  // namespace migrate::containers
