#include "postcopy_json.hpp"

#include "json_fields.hpp"

namespace migrate::tool {

Json faults_json(const Report& report) {
  const auto& faults = report.faults;
  Json stalls = Json::array();
  for (const double stall : faults.stall_ms) stalls.push_back(finite(stall));
  return {{"count", faults.count},           {"p50_us", finite(faults.p50_us)},
          {"p99_us", finite(faults.p99_us)}, {"max_us", finite(faults.max_us)},
          {"local", faults.local},           {"stall_ms", std::move(stalls)}};
}

Json missing_json(const Report& report) {
  return {{"pages", report.missing.pages}, {"ranges", report.missing.ranges}};
}

void take_faults(const Json& faults, Report& report) {
  take(faults, "count", report.faults.count);
  take(faults, "p50_us", report.faults.p50_us);
  take(faults, "p99_us", report.faults.p99_us);
  take(faults, "max_us", report.faults.max_us);
  take(faults, "local", report.faults.local);
  const auto stalls = faults.find("stall_ms");
  if (stalls == faults.end() || !stalls->is_array()) return;
  for (const Json& stall : *stalls) {
    if (stall.is_number()) report.faults.stall_ms.push_back(stall.get<double>());
  }
}

void take_missing(const Json& missing, Report& report) {
  take(missing, "pages", report.missing.pages);
  const auto ranges = missing.find("ranges");
  if (ranges == missing.end() || !ranges->is_array()) return;
  for (const Json& range : *ranges) {
    if (range.is_string()) report.missing.ranges.push_back(range.get<std::string>());
  }
}

}  // namespace migrate::tool
