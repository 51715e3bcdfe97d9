// CpuLimit: how much processor time a cgroup may use, and how the kernel writes it. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace migrate {

/// So much in each period.
struct CpuLimit {
  std::optional<std::uint64_t> quota_us;  ///< None: as much as there is.
  std::uint64_t period_us = 100'000;
  friend bool operator==(const CpuLimit&, const CpuLimit&) = default;
};

/// Processors, no end of them without a quota.
[[nodiscard]] double cpus_of(const CpuLimit& limit);

/// "max 100000" or "50000 100000", the content of cpu.max; nullopt for anything else.
[[nodiscard]] std::optional<CpuLimit> parse_cpu_max(std::string_view text);
[[nodiscard]] std::string cpu_max_text(const CpuLimit& limit);

/// The content of cpu.cfs_quota_us (negative: none) and of cpu.cfs_period_us.
[[nodiscard]] std::optional<CpuLimit> parse_cfs(std::string_view quota, std::string_view period);
[[nodiscard]] std::string cfs_quota_text(const CpuLimit& limit);

/// What leaves `1 - share` of `cpus` processors; nullopt where the least limit that there is would
/// not be below `cpus`.
[[nodiscard]] std::optional<CpuLimit> limit_withholding(double share, double cpus);

}  // namespace migrate
