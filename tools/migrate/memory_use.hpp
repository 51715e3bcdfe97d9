// What of this host's memory a guest's process has, and what of that it shares with others.
#pragma once

#include "migrate/result.hpp"
#include "report_json.hpp"

namespace migrate::tool {

/// {"private_bytes", "shared_bytes", "proportional_bytes"} of this process, as the kernel counts
/// them now (/proc/self/smaps_rollup): walks its page tables, some 10 ms a GiB of small pages.
[[nodiscard]] Result<Json> memory_use();

}  // namespace migrate::tool
