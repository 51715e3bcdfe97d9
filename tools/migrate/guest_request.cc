#include "guest_request.hpp"

namespace migrate::tool {

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
