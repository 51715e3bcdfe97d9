// migrate stats: the demo guest's own counters.
#include <cstdio>
#include <memory>

#include "command.hpp"
#include "guest_request.hpp"

namespace migrate::tool {
namespace {

void print_table(const Json& stats) {
  for (const auto& [key, value] : stats.items()) {
    if (value.is_number()) std::printf("%-18s %s\n", key.c_str(), value.dump().c_str());
  }
  std::size_t index = 0;
  for (const Json& vcpu : stats.value("vcpus", Json::array())) {
    std::printf("vcpu %-13zu work %s, %.0f ms of CPU, %s\n", index++,
                vcpu.value("work", Json(0)).dump().c_str(), vcpu.value("cpu_ms", 0.0),
                vcpu.value("workload", "").c_str());
  }
  if (const auto error = stats.find("first_error"); error != stats.end() && error->is_object()) {
    std::printf("first error        %s\n", error->dump().c_str());
  }
}

int stats(const GlobalOptions& global, const std::string& name) {
  const auto answer = guest_request(name, "GET", "/v1/stats");
  if (!answer) return fail(global, answer.error());
  if (global.json) {
    print_json(*answer);
  } else {
    print_table(*answer);
  }
  return to_int(ExitCode::kDone);
}

}  // namespace

void add_stats(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto name = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("stats", "Show the demo guest's own counters");
  command->add_option("NAME", *name, "The guest")->required()->type_name("");
  command->callback(
      [&global, &chosen, name] { chosen = [&global, name] { return stats(global, *name); }; });
}

}  // namespace migrate::tool
