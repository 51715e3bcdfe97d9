#include "forecast_options.hpp"

#include <algorithm>
#include <array>

#include "migrate/options.hpp"

namespace migrate::tool {
namespace {

// Of `send`'s, those that a simulation knows.
constexpr std::array<std::string_view, 3> kLimits = {"max-downtime", "max-rounds", "throttle-max"};
// A terabit: beyond, a page takes less than a simulation counts.
constexpr std::uint64_t kBandwidthMax = 125'000'000'000;
constexpr std::chrono::microseconds kRoundTripMax{10'000'000};

Error refused(const std::string& message, const char* remedy) {
  return make_error(ErrorCode::kInvalidArgument, message).advise(remedy);
}

Result<precopy::SimulationInput> base_input(const ForecastOptions& options) {
  precopy::SimulationInput input;
  for (const auto& [name, value] : options.migration) {
    MIGRATE_TRY(set_option(input.options, name, value));
  }
  if (input.options.strategy == Strategy::kAuto) input.options.strategy = Strategy::kPrecopy;
  MIGRATE_ASSIGN(const auto round_trip, parse_duration(options.round_trip));
  if (round_trip > kRoundTripMax) return refused("a round trip of more than 10s", "give less");
  input.round_trip_ms = static_cast<double>(round_trip.count()) / 1000;
  if (!(options.content_ratio > 0 && options.content_ratio <= 1)) {
    return refused("--content-ratio is not within 0 and 1", "1: pages go whole; 0.5: half of each");
  }
  input.content_ratio = options.content_ratio;
  return input;
}

Result<double> parse_bandwidth(const std::string& text) {
  MIGRATE_ASSIGN(const std::uint64_t rate, parse_rate(text));
  if (rate == 0 || rate > kBandwidthMax) {
    return refused("a bandwidth of " + text + " is not possible", "give 1 byte/s to 1000Gbit");
  }
  return static_cast<double>(rate);
}

/// Calls each(bandwidth's text, input with it) and gives the first error.
template <typename Each>
Status for_each_bandwidth(const ForecastOptions& options, Each each) {
  MIGRATE_ASSIGN(const precopy::SimulationInput base, base_input(options));
  for (const std::string& text : options.bandwidths) {
    precopy::SimulationInput input = base;
    MIGRATE_ASSIGN(input.bandwidth_bytes_per_s, parse_bandwidth(text));
    MIGRATE_TRY(each(text, input));
  }
  return {};
}

bool throttles(const std::vector<StallStep>& steps) {
  return std::any_of(steps.begin(), steps.end(),
                     [](const StallStep& step) { return step.kind == StallStep::Kind::kThrottle; });
}

}  // namespace

void add_forecast_limit(CLI::App& command, ForecastOptions& options, std::string_view name) {
  const OutgoingOptions defaults;
  for (const OptionSpec& spec : outgoing_option_registry()) {
    if (spec.name != name) continue;
    command
        .add_option_function<std::string>(
            "--" + std::string(name),
            [&options, key = std::string(name)](const std::string& value) {
              options.migration[key] = value;
            },
            std::string(spec.help) + " (default: " + spec.get(defaults) + ")")
        ->type_name(std::string(spec.argument));
  }
}

void add_forecast_options(CLI::App& command, ForecastOptions& options) {
  command
      .add_option("--bandwidth", options.bandwidths,
                  "What the link carries, or may be used of it, such as 10Gbit")
      ->type_name("RATE")
      ->delimiter(',');
  for (const std::string_view name : kLimits) add_forecast_limit(command, options, name);
  command
      .add_option("--policy", options.policies,
                  "What decides when rounds end: own, xen, qemu, fixed:N; several, joined with "
                  "commas (default: own)")
      ->type_name("P,...")
      ->delimiter(',');
  command.add_option("--rtt", options.round_trip, "Of the link (default: 200us)")
      ->type_name("TIME");
  command
      .add_option("--content-ratio", options.content_ratio,
                  "What of a page's bytes goes over the link: less than 1 where pages are packed "
                  "(default: 1)")
      ->type_name("RATIO");
}

Result<std::vector<ForecastCase>> all_cases(const ForecastOptions& options) {
  std::vector<ForecastCase> cases;
  MIGRATE_TRY(for_each_bandwidth(options, [&](const std::string& text, auto input) -> Status {
    input.options.strategy = Strategy::kStopCopy;
    cases.push_back({text, "-", "stop-copy", input});
    input.options.strategy = Strategy::kPrecopy;
    for (const std::string& policy : options.policies) {
      MIGRATE_ASSIGN(input.options.policy, parse_policy(policy));
      input.options.on_stall = {{StallStep::Kind::kAbort}};
      cases.push_back({text, policy, "precopy", input});
      input.options.on_stall = {{StallStep::Kind::kThrottle}, {StallStep::Kind::kAbort}};
      cases.push_back({text, policy, "precopy+throttle", input});
    }
    return {};
  }));
  return cases;
}

Result<std::vector<ForecastCase>> exact_cases(const ForecastOptions& options) {
  std::vector<ForecastCase> cases;
  MIGRATE_TRY(for_each_bandwidth(options, [&](const std::string& text, auto input) -> Status {
    if (input.options.strategy == Strategy::kStopCopy) {
      cases.push_back({text, "-", "stop-copy", input});
      return {};
    }
    for (const std::string& policy : options.policies) {
      MIGRATE_ASSIGN(input.options.policy, parse_policy(policy));
      const char* name = throttles(input.options.on_stall) ? "precopy+throttle" : "precopy";
      cases.push_back({text, policy, name, input});
    }
    return {};
  }));
  return cases;
}

}  // namespace migrate::tool
