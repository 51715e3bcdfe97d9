#include "container_names.hpp"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <system_error>

#include "report_json.hpp"
#include "runtime_dir.hpp"

namespace migrate::tool {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPid = "pid:";
constexpr std::string_view kContainer = "container:";

/// nullopt for a file that is not there or no JSON.
std::optional<Json> read_json(const fs::path& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  Json json = Json::parse(file, nullptr, false);
  if (json.is_discarded()) return std::nullopt;
  return json;
}

pid_t pid_of(const std::optional<Json>& state, const char* key) {
  if (!state || !state->is_object()) return 0;
  const auto found = state->find(key);
  return found != state->end() && found->is_number_integer() ? found->get<pid_t>() : 0;
}

/// runc: state.json of its own; crun: status. Both have a folder by id.
pid_t runtime_pid(const fs::path& root, const std::string& id, std::string& runtime) {
  for (const char* folder :
       {"run/runc", "run/containerd/runc/default", "run/containerd/runc/k8s.io",
        "run/containerd/runc/moby", "run/docker/runtime-runc/moby"}) {
    if (const pid_t pid =
            pid_of(read_json(root / folder / id / "state.json"), "init_process_pid")) {
      runtime = "runc";
      return pid;
    }
  }
  if (const pid_t pid = pid_of(read_json(root / "run/crun" / id / "status"), "pid")) {
    runtime = "crun";
    return pid;
  }
  return 0;
}

/// The id that podman has given to a name.
std::string podman_id(const fs::path& root, const std::string& name) {
  for (const char* driver : {"overlay-containers", "vfs-containers"}) {
    const auto list = read_json(root / "var/lib/containers/storage" / driver / "containers.json");
    if (!list || !list->is_array()) continue;
    for (const Json& entry : *list) {
      if (!entry.is_object()) continue;
      const Json names = entry.value("names", Json::array());
      const auto given = entry.find("id");
      if (given == entry.end() || !given->is_string()) continue;
      const std::string id = given->get<std::string>();
      const bool named = std::find(names.begin(), names.end(), name) != names.end();
      if (named || id == name) return id;
    }
  }
  return {};
}

Result<ContainerProcess> find_name(const std::string& name, const fs::path& root) {
  // It becomes a part of a path.
  MIGRATE_TRY(check_guest_name(name));
  ContainerProcess process;
  process.name = name;
  process.root = runtime_pid(root, name, process.runtime);
  if (process.root == 0) {
    const std::string id = podman_id(root, name);
    if (!id.empty() && check_guest_name(id)) {
      process.root = runtime_pid(root, id, process.runtime);
      process.runtime = "podman";
    }
  }
  if (process.root != 0) return process;
  return make_error(ErrorCode::kNotFound, "no running container is called " + name)
      .advise(
          "runc, crun and podman are looked for under /run and /var/lib/containers; give "
          "pid:PID, its first process, for others");
}

}  // namespace

bool names_container(const std::string& text) {
  return text.rfind(kPid, 0) == 0 || text.rfind(kContainer, 0) == 0;
}

Result<ContainerProcess> find_container(const std::string& text, const RuntimeFolders& folders) {
  if (text.rfind(kContainer, 0) == 0) {
    return find_name(text.substr(kContainer.size()), folders.root);
  }
  ContainerProcess process;
  const std::string number = text.rfind(kPid, 0) == 0 ? text.substr(kPid.size()) : std::string();
  const char* const end = number.data() + number.size();
  const auto [stop, error] = std::from_chars(number.data(), end, process.root);
  if (number.empty() || error != std::errc() || stop != end || process.root <= 0) {
    return make_error(ErrorCode::kInvalidArgument,
                      "'" + text + "' does not say which tree is meant")
        .advise("give pid:PID or container:NAME");
  }
  process.name = "pid-" + number;
  return process;
}

}  // namespace migrate::tool
