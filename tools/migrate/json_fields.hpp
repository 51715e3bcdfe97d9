// Fields of JSON objects, to and fro, whatever a peer or a file has put there.
#pragma once

#include <cmath>
#include <string>
#include <type_traits>

#include "report_json.hpp"

namespace migrate::tool {

/// JSON has no infinities; a figure that came out as one does not apply.
inline double finite(double value) { return std::isfinite(value) ? value : 0; }

/// The value at `key` when it is there and has the type of `into`; else `into` stays.
template <typename T>
void take(const Json& json, const char* key, T& into) {
  const auto found = json.find(key);
  if (found == json.end()) return;
  if constexpr (std::is_same_v<T, std::string>) {
    if (found->is_string()) into = found->template get<std::string>();
  } else if constexpr (std::is_floating_point_v<T>) {
    if (found->is_number()) into = found->template get<T>();
  } else {
    if (found->is_number_unsigned()) into = found->template get<T>();
  }
}

/// The object at `key`, or an empty one.
inline const Json& part(const Json& json, const char* key) {
  static const Json empty = Json::object();
  const auto found = json.find(key);
  return found != json.end() && found->is_object() ? *found : empty;
}

}  // namespace migrate::tool
