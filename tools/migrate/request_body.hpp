// The bodies of requests to the control API, whatever a client has put there.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/result.hpp"
#include "report_json.hpp"

namespace migrate::tool {

/// kInvalidArgument.
[[nodiscard]] Error bad_body(const std::string& message, const std::string& remedy);

/// The members of a request's body; an empty body has none. Refuses members not in `known`.
[[nodiscard]] Result<Json> parse_body(const std::string& body,
                                      std::initializer_list<std::string_view> known);

/// A member of each kind; what is not there is false or empty.
[[nodiscard]] Result<bool> take_flag(const Json& json, const char* name);
[[nodiscard]] Result<std::string> take_text(const Json& json, const char* name);
[[nodiscard]] Result<std::vector<std::string>> take_texts(const Json& json, const char* name);

}  // namespace migrate::tool
