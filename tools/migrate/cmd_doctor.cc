// migrate doctor: what this host offers, and what to do about what it lacks.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "command.hpp"
#include "container_names.hpp"
#include "container_options.hpp"
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

const char* finding_name(const ContainerFinding& finding) {
  return finding.blocks ? "blocks" : "note";
}

/// What stands in the way of moving a tree.
int check_tree(const GlobalOptions& global, const std::string& text,
               const ContainerChoice& choice) {
  const auto process = find_container(text);
  if (!process) return fail(global, process.error());
  const auto folder = RuntimeDir::open();
  if (!folder) return fail(global, folder.error());
  auto options = container_source_options(choice, *folder);
  if (!options) return fail(global, options.error());
  options->root = process->root;
  options->name = process->name;
  const auto findings = check_container(*options);
  if (!findings) return fail(global, findings.error());
  const bool movable = std::none_of(findings->begin(), findings->end(),
                                    [](const ContainerFinding& finding) { return finding.blocks; });
  if (global.json) {
    Json list = Json::array();
    for (const ContainerFinding& finding : *findings) {
      list.push_back(
          {{"blocks", finding.blocks}, {"what", finding.what}, {"remedy", finding.remedy}});
    }
    print_json({{"version", kVersion},
                {"name", process->name},
                {"pid", process->root},
                {"movable", movable},
                {"findings", list}});
  } else {
    for (const ContainerFinding& finding : *findings) {
      std::printf("%-8s %s\n", finding_name(finding), finding.what.c_str());
      if (!finding.remedy.empty()) std::printf("%-8s %s\n", "", finding.remedy.c_str());
    }
    std::printf("%s\n", movable ? "The tree can be moved." : "The tree cannot be moved as it is.");
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
    ContainerChoice container;
  };
  auto options = std::make_shared<Options>();
  CLI::Option* baseline = command->add_flag(
      "--cpu-baseline", options->baseline,
      "Instead print the processor that guests can be given here and on the hosts of the baselines "
      "FILE..., for run --cpu");
  command
      ->add_option("WHAT", options->files,
                   "pid:PID or container:NAME: say instead what stands in the way of moving that "
                   "process tree. With --cpu-baseline: baselines of other hosts, any number")
      ->type_name("...");
  add_container_source_options(*command, options->container);
  command->callback([&global, &chosen, options, baseline] {
    const bool tree = options->files.size() == 1 && names_container(options->files.front());
    if (!options->files.empty() && !tree && baseline->empty()) {
      throw CLI::ValidationError(options->files.front(),
                                 "give pid:PID or container:NAME, or --cpu-baseline with files");
    }
    chosen = [&global, options, tree] {
      if (tree) return check_tree(global, options->files.front(), options->container);
      return options->baseline ? print_cpu_baseline(global, options->files) : doctor(global);
    };
  });
}

}  // namespace migrate::tool
