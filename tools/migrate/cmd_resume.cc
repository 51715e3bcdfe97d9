// migrate resume: let a paused guest run on.
#include <cstdio>
#include <memory>

#include "command.hpp"
#include "guest_request.hpp"

namespace migrate::tool {
namespace {

int resume(const GlobalOptions& global, const std::string& name) {
  const auto answer = guest_request(name, "POST", "/v1/guest/resume");
  if (!answer) return fail(global, answer.error());
  if (global.json) {
    print_json(*answer);
  } else {
    std::printf("%s is %s\n", name.c_str(), answer->value("state", "").c_str());
  }
  return to_int(ExitCode::kDone);
}

}  // namespace

void add_resume(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto name = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("resume", "Let a paused guest run on");
  command->add_option("NAME", *name, "The guest")->required()->type_name("");
  command->callback(
      [&global, &chosen, name] { chosen = [&global, name] { return resume(global, *name); }; });
}

}  // namespace migrate::tool
