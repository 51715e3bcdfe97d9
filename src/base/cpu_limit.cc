#include "base/cpu_limit.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

namespace migrate {
namespace {

// Who has used up the quota is held until the period ends. With the usual 100 ms that would be
// longer than the downtime that a guest is promised.
constexpr std::uint64_t kPeriodUs = 10'000;
// Linux's min_cfs_quota_period: less is refused, as quota and as period.
constexpr std::uint64_t kQuotaUsMin = 1'000;

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  return text;
}

template <typename T>
std::optional<T> number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<CpuLimit> limit_of(std::optional<std::uint64_t> quota,
                                 std::optional<std::uint64_t> period) {
  if (!period || *period == 0) return std::nullopt;
  return CpuLimit{quota, *period};
}

}  // namespace

double cpus_of(const CpuLimit& limit) {
  if (!limit.quota_us) return std::numeric_limits<double>::infinity();
  return static_cast<double>(*limit.quota_us) / static_cast<double>(limit.period_us);
}

std::optional<CpuLimit> parse_cpu_max(std::string_view text) {
  text = trimmed(text);
  const std::size_t space = text.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  const std::string_view quota = text.substr(0, space);
  const auto period = number<std::uint64_t>(text.substr(space + 1));
  if (quota == "max") return limit_of(std::nullopt, period);
  const auto quota_us = number<std::uint64_t>(quota);
  return quota_us ? limit_of(quota_us, period) : std::nullopt;
}

std::string cpu_max_text(const CpuLimit& limit) {
  return (limit.quota_us ? std::to_string(*limit.quota_us) : "max") + " " +
         std::to_string(limit.period_us);
}

std::optional<CpuLimit> parse_cfs(std::string_view quota, std::string_view period) {
  const auto quota_us = number<std::int64_t>(trimmed(quota));
  const auto period_us = number<std::uint64_t>(trimmed(period));
  if (!quota_us) return std::nullopt;
  if (*quota_us < 0) return limit_of(std::nullopt, period_us);
  return limit_of(static_cast<std::uint64_t>(*quota_us), period_us);
}

std::string cfs_quota_text(const CpuLimit& limit) {
  return limit.quota_us ? std::to_string(*limit.quota_us) : "-1";
}

std::optional<CpuLimit> limit_withholding(double share, double cpus) {
  const double left_us = (1 - share) * cpus * static_cast<double>(kPeriodUs);
  const CpuLimit limit{std::max(kQuotaUsMin, static_cast<std::uint64_t>(std::llround(left_us))),
                       kPeriodUs};
  if (cpus_of(limit) >= cpus) return std::nullopt;
  return limit;
}

}  // namespace migrate
