#include "base/convergence_options.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/option_kinds.hpp"

namespace migrate {
namespace options {
namespace {

using Kind = StallStep::Kind;

constexpr std::array kPlainSteps = {Kind::kThrottle, Kind::kPostcopy, Kind::kAbort};
constexpr std::string_view kRaise = "raise:";
constexpr std::string_view kOff = "off";
// More would be a pause: a vCPU still gets 0.1 ms every 10 ms.
constexpr double kThrottleMost = 0.99;

std::optional<StallStep> parse_step(std::string_view text) {
  for (const Kind kind : kPlainSteps) {
    if (to_string(StallStep{kind}) == text) return StallStep{kind};
  }
  if (!text.starts_with(kRaise)) return std::nullopt;
  const auto limit = parse_duration(text.substr(kRaise.size()));
  if (!limit || limit->count() <= 0 || *limit > kTimeoutMax) return std::nullopt;
  return StallStep{Kind::kRaise, *limit};
}

/// What may follow `steps`: each kind once but raise, whose limits must grow, and nothing after
/// abort. Postcopy may turn out not to be possible, so others may follow it.
bool may_follow(const std::vector<StallStep>& steps, const StallStep& next) {
  for (const StallStep& step : steps) {
    if (step.kind == Kind::kAbort) return false;
    if (step.kind != next.kind) continue;
    if (step.kind != Kind::kRaise || step.limit >= next.limit) return false;
  }
  return true;
}

Status set_on_stall(OutgoingOptions& options, std::string_view value) {
  std::vector<StallStep> steps;
  std::string_view rest = value;
  for (bool more = true; more;) {
    const std::size_t comma = rest.find(',');
    const auto step = parse_step(rest.substr(0, comma));
    if (!step || !may_follow(steps, *step)) {
      return refused("on-stall", value,
                     "steps in the order to take them, joined with commas: throttle, postcopy, "
                     "raise:TIME (more than once with longer times), and abort last");
    }
    steps.push_back(*step);
    more = comma != std::string_view::npos;
    if (more) rest.remove_prefix(comma + 1);
  }
  options.on_stall = std::move(steps);
  return {};
}

std::string get_on_stall(const OutgoingOptions& options) {
  std::string text;
  for (const StallStep& step : effective_ladder(options)) {
    if (!text.empty()) text += ',';
    text += to_string(step);
  }
  return text;
}

Status set_downtime_hard(OutgoingOptions& options, std::string_view value) {
  if (value == kOff) {
    options.downtime_hard.reset();
    return {};
  }
  const auto time = parse_duration(value);
  if (!time) return in_option("downtime-hard", std::move(time).error());
  if (time->count() < 1000 || *time > kTimeoutMax) {
    return refused("downtime-hard", value, "a time from 1ms to 24 hours (86400s), or off");
  }
  options.downtime_hard = *time;
  return {};
}

std::string get_downtime_hard(const OutgoingOptions& options) {
  return options.downtime_hard ? format_duration(*options.downtime_hard) : std::string(kOff);
}

Status set_policy(OutgoingOptions& options, std::string_view value) {
  auto choice = parse_policy(value);
  if (!choice) return in_option("policy", std::move(choice).error());
  options.policy = *choice;
  return {};
}

Status set_throttle_max(OutgoingOptions& options, std::string_view value) {
  double share = 0;
  const char* end = value.data() + value.size();
  const auto [stopped, failure] = std::from_chars(value.data(), end, share);
  if (failure != std::errc() || stopped != end || !(share >= 0) || share > kThrottleMost) {
    return refused("throttle-max", value, "a share of run time from 0 to 0.99");
  }
  options.throttle_max = share;
  return {};
}

std::string get_throttle_max(const OutgoingOptions& options) {
  std::array<char, 32> text{};
  const auto written = std::to_chars(text.data(), text.data() + text.size(), options.throttle_max);
  return std::string(text.data(), written.ptr);
}

}  // namespace

OptionSpec downtime_hard_option() {
  return {"downtime-hard", "TIME|off",
          "A guest that stands this long is let go on here, and the switchover is tried again.",
          set_downtime_hard, get_downtime_hard};
}

OptionSpec policy_option() {
  return {"policy", "own|xen|qemu|fixed:N", "What decides when rounds end.", set_policy,
          [](const OutgoingOptions& options) {
            return options.custom_policy != nullptr ? options.custom_policy->name()
                                                    : to_string(options.policy);
          }};
}

OptionSpec on_stall_option() {
  return {"on-stall", "throttle,postcopy,raise:TIME,abort",
          "What to do, in this order, when pre-copy does not converge.", set_on_stall,
          get_on_stall};
}

OptionSpec throttle_max_option() {
  return {"throttle-max", "SHARE",
          "Most of a vCPU's run time that throttling withholds, 0 to 0.99.", set_throttle_max,
          get_throttle_max};
}

}  // namespace options

std::vector<StallStep> effective_ladder(const OutgoingOptions& options) {
  if (!options.on_stall.empty()) return options.on_stall;
  using Kind = StallStep::Kind;
  if (options.strategy == Strategy::kAuto && options.downtime_hard) {
    // Post-copy has one attempt.
    return {{Kind::kThrottle}, {Kind::kPostcopy}, {Kind::kAbort}};
  }
  if (options.strategy == Strategy::kAuto)
    return {{Kind::kPostcopy}, {Kind::kThrottle}, {Kind::kAbort}};
  return {{Kind::kThrottle}, {Kind::kAbort}};
}

std::string to_string(const StallStep& step) {
  switch (step.kind) {
    case StallStep::Kind::kThrottle:
      return "throttle";
    case StallStep::Kind::kPostcopy:
      return "postcopy";
    case StallStep::Kind::kRaise:
      return std::string(options::kRaise) + format_duration(step.limit);
    case StallStep::Kind::kAbort:
      return "abort";
  }
  return "unknown";
}

std::string to_string(const PolicyChoice& choice) {
  switch (choice.kind) {
    case PolicyChoice::Kind::kOwn:
      return "own";
    case PolicyChoice::Kind::kXen:
      return "xen";
    case PolicyChoice::Kind::kQemu:
      return "qemu";
    case PolicyChoice::Kind::kFixed:
      return "fixed:" + std::to_string(choice.rounds);
  }
  return "unknown";
}

Result<PolicyChoice> parse_policy(std::string_view text) {
  using Kind = PolicyChoice::Kind;
  for (const Kind kind : {Kind::kOwn, Kind::kXen, Kind::kQemu}) {
    if (to_string(PolicyChoice{kind}) == text) return PolicyChoice{kind};
  }
  constexpr std::string_view kFixed = "fixed:";
  constexpr std::uint32_t kRoundsMax = 10'000;
  if (text.starts_with(kFixed)) {
    PolicyChoice choice{PolicyChoice::Kind::kFixed};
    const char* end = text.data() + text.size();
    const auto [stopped, failure] =
        std::from_chars(text.data() + kFixed.size(), end, choice.rounds);
    if (failure == std::errc() && stopped == end && choice.rounds >= 1 &&
        choice.rounds <= kRoundsMax) {
      return choice;
    }
  }
  return make_error(ErrorCode::kInvalidArgument, "there is no policy '" + std::string(text) + "'")
      .advise("accepted: own, xen, qemu, fixed:N with N from 1 to 10000 rounds");
}

}  // namespace migrate
