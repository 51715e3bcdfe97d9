// migrate ps: the guests of this host.
#include <cstdio>
#include <memory>

#include "command.hpp"
#include "control_client.hpp"
#include "json_fields.hpp"
#include "progress_line.hpp"
#include "runtime_dir.hpp"

namespace migrate::tool {
namespace {

// Listing must not hang on one process that does.
constexpr std::chrono::milliseconds kListTimeout{2'000};

/// What the guest says of itself; nullopt when it has gone meanwhile.
std::optional<Json> look_at(const RuntimeDir& folder, const std::string& name, bool memory) {
  const auto socket = folder.socket_path(name);
  auto guest = control_request(socket, "GET", "/v1/guest", nullptr, kListTimeout);
  if (guest) {
    if (memory) {
      auto use = control_request(socket, "GET", "/v1/memory", nullptr, kListTimeout);
      (*guest)["host_memory"] = use ? *std::move(use) : Json(nullptr);
    }
    return *std::move(guest);
  }
  if (guest.error().code == ErrorCode::kNotFound) return std::nullopt;
  return Json{{"name", name}, {"state", "unresponsive"}};
}

double of_host(const Json& guest, const char* key) {
  double bytes = 0;
  take(part(guest, "host_memory"), key, bytes);
  return bytes;
}

int list(const GlobalOptions& global, bool memory) {
  const auto folder = RuntimeDir::open();
  if (!folder) return fail(global, folder.error());
  Json guests = Json::array();
  for (const std::string& name : folder->guests()) {
    if (auto guest = look_at(*folder, name, memory)) guests.push_back(*std::move(guest));
  }
  if (global.json) {
    print_json({{"guests", guests}});
    return to_int(ExitCode::kDone);
  }
  std::printf("%-24s %-13s %8s %6s %10s  ", "NAME", "STATE", "PID", "VCPUS", "MEMORY");
  if (memory) std::printf("%10s %10s  ", "OWN", "SHARED");
  std::printf("WORKLOAD\n");
  for (const Json& guest : guests) {
    std::printf("%-24s %-13s %8lld %6lld %10s  ", guest.value("name", "").c_str(),
                guest.value("state", "").c_str(),
                static_cast<long long>(guest.value("pid", std::int64_t{0})),
                static_cast<long long>(guest.value("vcpus", std::int64_t{0})),
                human_bytes(guest.value("memory_bytes", 0.0)).c_str());
    if (memory) {
      std::printf("%10s %10s  ", human_bytes(of_host(guest, "private_bytes")).c_str(),
                  human_bytes(of_host(guest, "shared_bytes")).c_str());
    }
    std::printf("%s\n", guest.value("workload", "").c_str());
  }
  return to_int(ExitCode::kDone);
}

}  // namespace

void add_ps(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  CLI::App* command = app.add_subcommand("ps", "List the guests of this host");
  auto memory = std::make_shared<bool>(false);
  command->add_flag("--memory", *memory,
                    "Also say what of this host's memory each has, its own and shared with others");
  command->callback(
      [&global, &chosen, memory] { chosen = [&global, memory] { return list(global, *memory); }; });
}

}  // namespace migrate::tool
