// migrate doctor: what this host offers, and what to do about what it lacks.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "command.hpp"
#include "cpu_baseline_file.hpp"
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

int print_cpu_baseline(const GlobalOptions& global, const std::vector<std::string>& files) {
  const auto baseline = common_cpu_baseline_of(files);
  if (!baseline) return fail(global, baseline.error());
  const std::string text = to_text(*baseline);
  if (global.json) {
    print_json({{"version", kVersion}, {"cpu_baseline", text}});
  } else {
    std::fputs(text.c_str(), stdout);
  }
  return to_int(ExitCode::kDone);
}

}  // namespace

void add_doctor(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  CLI::App* command = app.add_subcommand("doctor", "Say what this host offers and what it lacks");
  struct Options {
    bool baseline = false;
    std::vector<std::string> files;
  };
  auto options = std::make_shared<Options>();
  CLI::Option* baseline = command->add_flag(
      "--cpu-baseline", options->baseline,
      "Instead print the processor that guests can be given here and on the hosts of the baselines "
      "FILE..., for run --cpu");
  command->add_option("FILE", options->files, "Baselines of other hosts, with --cpu-baseline")
      ->needs(baseline)
      ->type_name("...");
  command->callback([&global, &chosen, options] {
    chosen = [&global, options] {
      return options->baseline ? print_cpu_baseline(global, options->files) : doctor(global);
    };
  });
}

}  // namespace migrate::tool
