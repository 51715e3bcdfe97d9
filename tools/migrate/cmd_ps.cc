// migrate ps: the guests of this host.
#include <cstdio>

#include "command.hpp"
#include "control_client.hpp"
#include "progress_line.hpp"
#include "runtime_dir.hpp"

namespace migrate::tool {
namespace {

// Listing must not hang on one process that does.
constexpr std::chrono::milliseconds kListTimeout{2'000};

/// What the guest says of itself; nullopt when it has gone meanwhile.
std::optional<Json> look_at(const RuntimeDir& folder, const std::string& name) {
  auto guest = control_request(folder.socket_path(name), "GET", "/v1/guest", nullptr, kListTimeout);
  if (guest) return *std::move(guest);
  if (guest.error().code == ErrorCode::kNotFound) return std::nullopt;
  return Json{{"name", name}, {"state", "unresponsive"}};
}

int list(const GlobalOptions& global) {
  const auto folder = RuntimeDir::open();
  if (!folder) return fail(global, folder.error());
  Json guests = Json::array();
  for (const std::string& name : folder->guests()) {
    if (auto guest = look_at(*folder, name)) guests.push_back(*std::move(guest));
  }
  if (global.json) {
    print_json({{"guests", guests}});
    return to_int(ExitCode::kDone);
  }
  std::printf("%-24s %-13s %8s %6s %10s  %s\n", "NAME", "STATE", "PID", "VCPUS", "MEMORY",
              "WORKLOAD");
  for (const Json& guest : guests) {
    std::printf("%-24s %-13s %8lld %6lld %10s  %s\n", guest.value("name", "").c_str(),
                guest.value("state", "").c_str(),
                static_cast<long long>(guest.value("pid", std::int64_t{0})),
                static_cast<long long>(guest.value("vcpus", std::int64_t{0})),
                human_bytes(guest.value("memory_bytes", 0.0)).c_str(),
                guest.value("workload", "").c_str());
  }
  return to_int(ExitCode::kDone);
}

}  // namespace

void add_ps(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  CLI::App* command = app.add_subcommand("ps", "List the guests of this host");
  command->callback([&global, &chosen] { chosen = [&global] { return list(global); }; });
}

}  // namespace migrate::tool
