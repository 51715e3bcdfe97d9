// What the report says of post-copy, as JSON.
#pragma once

#include "report_json.hpp"

namespace migrate::tool {

[[nodiscard]] Json faults_json(const Report& report);
[[nodiscard]] Json missing_json(const Report& report);
/// Of the objects that those made; what is not there or not of its type stays as it is.
void take_faults(const Json& faults, Report& report);
void take_missing(const Json& missing, Report& report);

}  // namespace migrate::tool
