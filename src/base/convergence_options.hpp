// Options about when pre-copy ends.
#pragma once

#include "migrate/options.hpp"

namespace migrate::options {

[[nodiscard]] OptionSpec downtime_hard_option();
[[nodiscard]] OptionSpec policy_option();
[[nodiscard]] OptionSpec on_stall_option();
[[nodiscard]] OptionSpec throttle_max_option();

}  // namespace migrate::options
