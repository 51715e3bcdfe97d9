#include "guest_request.hpp"

#include <string_view>

namespace migrate::tool {

Result<std::string> vm_name(const std::string& text) {
  constexpr std::string_view kPrefix = "vm:";
  if (text.rfind(kPrefix, 0) != 0) {
    return make_error(ErrorCode::kInvalidArgument,
                      "'" + text + "' does not say which guest is meant")
        .advise("give vm:NAME, as `migrate ps` shows it");
  }
  std::string name = text.substr(kPrefix.size());
  MIGRATE_TRY(check_guest_name(name));
  return name;
}

Result<std::filesystem::path> guest_socket(const std::string& name) {
  MIGRATE_TRY(check_guest_name(name));
  MIGRATE_ASSIGN(const RuntimeDir folder, RuntimeDir::open());
  return folder.socket_path(name);
}

Result<Json> guest_request(const std::string& name, const std::string& method,
                           const std::string& path, const Json& body,
                           std::chrono::milliseconds timeout) {
  MIGRATE_ASSIGN(const std::filesystem::path socket, guest_socket(name));
  return control_request(socket, method, path, body, timeout);
}

}  // namespace migrate::tool
