// The version this command was built as; MIGRATE_VERSION comes from the project() line.
#pragma once

namespace migrate::tool {

inline constexpr const char* kVersion = MIGRATE_VERSION;

}  // namespace migrate::tool
