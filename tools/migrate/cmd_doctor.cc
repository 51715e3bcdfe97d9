// migrate doctor: what this host offers, and what to do about what it lacks.
#include <algorithm>
#include <cstdio>

#include "command.hpp"
#include "host_checks.hpp"
#include "version.hpp"

namespace migrate::tool {
namespace {

const char* result_name(CheckResult result) {
  switch (result) {
    case CheckResult::kOk:
      return "ok";
    case CheckResult::kLimited:
      return "limited";
    case CheckResult::kMissing:
      return "missing";
  }
  return "missing";
}

int doctor(const GlobalOptions& global) {
  const auto checks = check_host();
  const bool usable = std::none_of(checks.begin(), checks.end(), [](const HostCheck& check) {
    return check.result == CheckResult::kMissing;
  });
  if (global.json) {
    Json list = Json::array();
    for (const HostCheck& check : checks) {
      list.push_back({{"check", check.name},
                      {"result", result_name(check.result)},
                      {"detail", check.detail},
                      {"remedy", check.remedy}});
    }
    print_json({{"version", kVersion}, {"usable", usable}, {"checks", list}});
  } else {
    for (const HostCheck& check : checks) {
      std::printf("%-8s %-22s %s\n", result_name(check.result), check.name.c_str(),
                  check.detail.c_str());
      if (!check.remedy.empty()) std::printf("%-31s %s\n", "", check.remedy.c_str());
    }
    std::printf("%s\n", usable ? "Guests can run and move here." : "Guests cannot run here yet.");
  }
  return to_int(usable ? ExitCode::kDone : ExitCode::kFailed);
}

}  // namespace

void add_doctor(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  CLI::App* command = app.add_subcommand("doctor", "Say what this host offers and what it lacks");
  command->callback([&global, &chosen] { chosen = [&global] { return doctor(global); }; });
}

}  // namespace migrate::tool
