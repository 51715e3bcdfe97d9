// migrate doctor: what this host offers, and what to do about what it lacks.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "command.hpp"
#include "container_names.hpp"
#include "container_options.hpp"
#include "container_trace.hpp"
#include "cpu_baseline_file.hpp"
#include "forecast_conclusion.hpp"
#include "host_checks.hpp"
#include "migrate/options.hpp"
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

const char* finding_name(const ContainerFinding& finding) {
  return finding.blocks ? "blocks" : "note";
}

struct TreeCheck {
  std::string tree;
  ContainerChoice container;
  ForecastOptions forecast;
  std::string duration = "3s";
  bool no_forecast = false;
};

/// How moving it would go.
struct TreeForecast {
  DirtyTrace trace;
  std::vector<Forecast> forecasts;
  Conclusion conclusion;
};

Result<TreeForecast> forecast_tree(const ContainerProcess& process, const TreeCheck& asked) {
  TraceOptions options;
  MIGRATE_ASSIGN(options.duration, parse_duration(asked.duration));
  MIGRATE_TRY(check(options));
  MIGRATE_ASSIGN(auto cases, all_cases(tree_forecast(asked.forecast)));
  TreeForecast made;
  MIGRATE_ASSIGN(made.trace, record_container(process, asked.container, options));
  made.forecasts = predict_all(made.trace, std::move(cases));
  made.conclusion = conclude(made.trace, made.forecasts);
  return made;
}

Result<std::vector<ContainerFinding>> findings_of(const ContainerProcess& process,
                                                  const ContainerChoice& choice) {
  MIGRATE_ASSIGN(const RuntimeDir folder, RuntimeDir::open());
  MIGRATE_ASSIGN(auto options, container_source_options(choice, folder));
  options.root = process.root;
  options.name = process.name;
  return check_container(options);
}

Json to_json(const std::vector<ContainerFinding>& findings) {
  Json list = Json::array();
  for (const ContainerFinding& finding : findings) {
    list.push_back(
        {{"blocks", finding.blocks}, {"what", finding.what}, {"remedy", finding.remedy}});
  }
  return list;
}

void print(const std::vector<ContainerFinding>& findings, bool movable) {
  for (const ContainerFinding& finding : findings) {
    std::printf("%-8s %s\n", finding_name(finding), finding.what.c_str());
    if (!finding.remedy.empty()) std::printf("%-8s %s\n", "", finding.remedy.c_str());
  }
  std::printf("%s\n", movable ? "The tree can be moved." : "The tree cannot be moved as it is.");
}

/// What stands in the way of moving a tree, and what moving it would come to.
int check_tree(const GlobalOptions& global, const TreeCheck& asked) {
  const auto process = find_container(asked.tree);
  if (!process) return fail(global, process.error());
  const auto findings = findings_of(*process, asked.container);
  if (!findings) return fail(global, findings.error());
  const bool movable = std::none_of(findings->begin(), findings->end(),
                                    [](const ContainerFinding& finding) { return finding.blocks; });
  if (!global.json) {
    print(*findings, movable);
    std::fflush(stdout);
  }
  Json forecast = nullptr;
  if (movable && !asked.no_forecast) {
    const auto made = forecast_tree(*process, asked);
    if (!made) return fail(global, made.error());
    forecast = forecast_json(made->trace, made->forecasts, made->conclusion);
    if (!global.json) {
      std::printf("\n%s", forecast_text(made->trace, made->forecasts, made->conclusion).c_str());
    }
  }
  if (global.json) {
    print_json({{"version", kVersion},
                {"name", process->name},
                {"pid", process->root},
                {"movable", movable},
                {"findings", to_json(*findings)},
                {"forecast", forecast}});
  }
  return to_int(movable ? ExitCode::kDone : ExitCode::kRefused);
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
    TreeCheck tree;
  };
  auto options = std::make_shared<Options>();
  options->tree.forecast.bandwidths = {"1Gbit", "10Gbit"};
  options->tree.forecast.policies = {"own"};
  CLI::Option* baseline = command->add_flag(
      "--cpu-baseline", options->baseline,
      "Instead print the processor that guests can be given here and on the hosts of the baselines "
      "FILE..., for run --cpu");
  command
      ->add_option("WHAT", options->files,
                   "pid:PID or container:NAME: say instead what stands in the way of moving that "
                   "process tree, and which downtime it would have. With --cpu-baseline: baselines "
                   "of other hosts, any number")
      ->type_name("...");
  CLI::Option* bandwidth =
      command
          ->add_option("--bandwidth", options->tree.forecast.bandwidths,
                       "Of a tree: what the link carries (default: 1Gbit,10Gbit)")
          ->type_name("RATE")
          ->delimiter(',');
  CLI::Option* duration =
      command
          ->add_option("--duration", options->tree.duration,
                       "Of a tree: how long to watch what it writes (default: 3s)")
          ->type_name("TIME");
  add_forecast_limit(*command, options->tree.forecast, "max-downtime");
  command
      ->add_flag("--no-forecast", options->tree.no_forecast,
                 "Of a tree: only look what stands in the way, and touch nothing")
      ->excludes(bandwidth)
      ->excludes(duration);
  add_container_source_options(*command, options->tree.container);
  command->callback([&global, &chosen, options, baseline] {
    const bool tree = options->files.size() == 1 && names_container(options->files.front());
    if (!options->files.empty() && !tree && baseline->empty()) {
      throw CLI::ValidationError(options->files.front(),
                                 "give pid:PID or container:NAME, or --cpu-baseline with files");
    }
    if (tree) options->tree.tree = options->files.front();
    chosen = [&global, options, tree] {
      if (tree) return check_tree(global, options->tree);
      return options->baseline ? print_cpu_baseline(global, options->files) : doctor(global);
    };
  });
}

}  // namespace migrate::tool
