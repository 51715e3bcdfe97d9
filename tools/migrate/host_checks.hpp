// What this host offers to migrations, and what it lacks: `migrate doctor`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace migrate::tool {

enum class CheckResult : std::uint8_t {
  kOk,
  kLimited,  ///< Works, less well; or is needed for some uses only.
  kMissing,  ///< Guests cannot run or move without it.
};

struct HostCheck {
  std::string name;  ///< Pinned, such as "kvm" or "runtime-dir".
  CheckResult result = CheckResult::kOk;
  std::string detail;
  std::string remedy;  ///< Empty when all is well.
};

[[nodiscard]] std::vector<HostCheck> check_host();

}  // namespace migrate::tool
