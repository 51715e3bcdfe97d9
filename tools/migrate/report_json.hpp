// The report and what leads to it as JSON: the shapes of docs/report.md and docs/control-api.md.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>

#include "migrate/progress.hpp"
#include "migrate/result.hpp"

namespace migrate::tool {

/// Keeps keys in the order in which they are written: reports are read by people too.
using Json = nlohmann::ordered_json;

/// Names the shape of a report. The number grows when a key changes its meaning or goes; new keys
/// do not change it.
inline constexpr const char* kReportSchema = "migrate-report/1";

/// Which machine a report's side ran on.
struct HostFacts {
  std::string kernel;
  std::string cpu;
};
[[nodiscard]] HostFacts host_facts();

/// Every key of docs/report.md, whatever the outcome.
[[nodiscard]] Json to_json(const Report& report, const HostFacts& host);
/// The inverse, for clients of the control API; keys that are missing or of another type count as
/// not applying, so that a newer guest's report can be shown.
[[nodiscard]] Report report_from_json(const Json& json);

/// The errno's text stands in the message.
[[nodiscard]] Json to_json(const Error& error);
[[nodiscard]] Error error_from_json(const Json& json);

[[nodiscard]] Json to_json(const Progress& progress);
[[nodiscard]] Progress progress_from_json(const Json& json);

[[nodiscard]] Json to_json(const Event& event);
[[nodiscard]] Event event_from_json(const Json& json);

/// The report of a migration that never began: refused by this side before a word was sent.
[[nodiscard]] Report report_of(Outcome outcome, Side side, const Error& error);

/// Pinned names back to their values; nullopt for a name this version lacks.
[[nodiscard]] std::optional<Outcome> outcome_from_name(std::string_view name);

}  // namespace migrate::tool
