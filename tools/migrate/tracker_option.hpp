// --tracker: how a guest's writes are tracked when it leaves this host.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "migrate/tracker_choice.hpp"

namespace migrate::tool {

/// "auto|log|ring|write-protect|hash", for help texts.
[[nodiscard]] std::string tracker_names();

/// nullopt for "auto"; kInvalidArgument for a name that is none of them.
[[nodiscard]] Result<std::optional<TrackerKind>> parse_tracker(std::string_view name);
/// As parse_tracker() takes it.
[[nodiscard]] std::string_view tracker_name(std::optional<TrackerKind> kind);

/// kUnsupported, naming what is possible, where this host lacks it.
[[nodiscard]] Status check_tracker(std::optional<TrackerKind> kind);

}  // namespace migrate::tool
