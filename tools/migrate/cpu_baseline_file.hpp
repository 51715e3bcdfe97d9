// CPU baselines in files: `migrate doctor --cpu-baseline` makes them, `migrate run --cpu` reads
// them.
#pragma once

#include <string>
#include <vector>

#include "migrate/kvm_cpu_baseline.hpp"

namespace migrate::tool {

/// kNotFound, kPermission or kIo where it cannot be read; else as parse_cpu_baseline(), with the
/// file's name.
[[nodiscard]] Result<KvmCpuBaseline> read_cpu_baseline(const std::string& path);

/// What this host and those of `files` can all give.
[[nodiscard]] Result<KvmCpuBaseline> common_cpu_baseline_of(const std::vector<std::string>& files);

}  // namespace migrate::tool
