// migrate resolve: ends an uncertain handover.
#include <cstdio>
#include <memory>

#include "command.hpp"
#include "guest_request.hpp"

namespace migrate::tool {
namespace {

// The guest's process asks the target again, for as long as the ask window says: a minute unless
// `send` was told otherwise. Longer ones go on without anybody watching.
constexpr std::chrono::minutes kResolveMax{10};

struct ResolveOptions {
  std::string name;
  bool resume = false;
  bool release = false;
  bool force = false;
};

int resolve(const GlobalOptions& global, const ResolveOptions& options) {
  const Json body = {{"action", options.resume ? "resume" : "release"}, {"force", options.force}};
  const auto answer = guest_request(options.name, "POST", "/v1/guest/resolve", body, kResolveMax);
  if (!answer) return fail(global, answer.error());
  if (global.json) {
    print_json(*answer);
  } else if (options.resume) {
    std::printf("%s is %s here\n", options.name.c_str(), answer->value("state", "").c_str());
  } else {
    std::printf("%s is given up here\n", options.name.c_str());
  }
  return to_int(ExitCode::kDone);
}

}  // namespace

void add_resolve(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto options = std::make_shared<ResolveOptions>();
  CLI::App* command = app.add_subcommand(
      "resolve", "Decide where a guest runs whose handover ended without an answer");
  command->add_option("NAME", options->name, "The guest")->required()->type_name("");
  CLI::Option_group* which = command->add_option_group("what to do");
  which->add_flag("--resume", options->resume,
                  "Let it run on here; the target is asked first, and must not have started it");
  which->add_flag("--release", options->release, "Give it up here: it runs at the target");
  which->require_option(1);
  command->add_flag("--force", options->force,
                    "Without the target's answer: you vouch that its host is dead or fenced "
                    "(--resume), or that the guest runs there (--release)");
  command->callback([&global, &chosen, options] {
    chosen = [&global, options] { return resolve(global, *options); };
  });
}

}  // namespace migrate::tool
