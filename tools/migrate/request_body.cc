#include "request_body.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace migrate::tool {

Error bad_body(const std::string& message, const std::string& remedy) {
  return make_error(ErrorCode::kInvalidArgument, message).advise(remedy);
}

Result<Json> parse_body(const std::string& body, std::initializer_list<std::string_view> known) {
  if (body.empty()) return Json::object();
  Json json = Json::parse(body, nullptr, false);
  if (!json.is_object()) {
    return bad_body("the request's body is not a JSON object", "see docs/control-api.md");
  }
  for (const auto& [name, value] : json.items()) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    return bad_body("the request has an unknown member '" + name + "'",
                    fmt::format("known here: {}", fmt::join(known, ", ")));
  }
  return json;
}

Result<bool> take_flag(const Json& json, const char* name) {
  const auto found = json.find(name);
  if (found == json.end()) return false;
  if (found->is_boolean()) return found->get<bool>();
  return bad_body(std::string("'") + name + "' is not a boolean", "give true or false");
}

Result<std::string> take_text(const Json& json, const char* name) {
  const auto found = json.find(name);
  if (found == json.end()) return std::string();
  if (found->is_string()) return found->get<std::string>();
  return bad_body(std::string("'") + name + "' is not a string", "see docs/control-api.md");
}

Result<std::vector<std::string>> take_texts(const Json& json, const char* name) {
  std::vector<std::string> texts;
  const auto found = json.find(name);
  if (found == json.end()) return texts;
  const bool good =
      found->is_array() &&
      std::all_of(found->begin(), found->end(), [](const Json& text) { return text.is_string(); });
  if (!good)
    return bad_body(std::string("'") + name + "' is not a list of strings",
                    "see docs/control-api.md");
  for (const Json& text : *found) texts.push_back(text.get<std::string>());
  return texts;
}

}  // namespace migrate::tool
