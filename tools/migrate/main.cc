// The migrate command.
#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "command.hpp"
#include "version.hpp"

namespace {

using migrate::LogLevel;
using migrate::tool::Action;
using migrate::tool::ExitCode;
using migrate::tool::GlobalOptions;

constexpr const char* kFooter =
    "Everywhere: --json prints one JSON object on standard output; --log-level LEVEL.\n"
    "Exit codes: 0 done, 1 failed (the source guest is as it was), 2 usage, 3 refused by the\n"
    "preflight, 4 cancelled, 5 uncertain (see `migrate resolve`), 6 guest lost.\n"
    "Guests live in $MIGRATE_RUNTIME_DIR, else /run/migrate.";

void write_log(LogLevel level, std::string_view line) {
  const std::string text =
      "migrate: " + std::string(to_string(level)) + ": " + std::string(line) + "\n";
  std::fwrite(text.data(), 1, text.size(), stderr);
}

void add_global_options(CLI::App& app, GlobalOptions& global) {
  app.add_flag("--json", global.json, "Print one JSON object on standard output");
  app.add_option_function<std::string>(
         "--log-level",
         [&global](const std::string& name) {
           const auto level = migrate::parse_log_level(name);
           if (!level) throw CLI::ValidationError("--log-level", level.error().to_text());
           global.log_level = *level;
         },
         "Least important lines to log on standard error (default: warning)")
      ->type_name("debug|info|warning|error|off");
}

/// CLI11's complaint as the command's own kind of error.
int usage_error(const GlobalOptions& global, const CLI::App& app, const CLI::ParseError& error,
                const std::vector<std::string>& words) {
  std::string message = error.what();
  // It misses a subcommand where there is a wrong one.
  const bool misses_subcommand = app.get_subcommands().empty();
  if (misses_subcommand && !words.empty() && words.front().rfind('-', 0) != 0) {
    message = "there is no subcommand '" + words.front() + "'";
  }
  return fail(global, migrate::make_error(migrate::ErrorCode::kInvalidArgument, message)
                          .advise("see `migrate --help` and `migrate SUBCOMMAND --help`"));
}

}  // namespace

int main(int argc, char** argv) {
  // A peer or a reader that goes away is an error to handle, not the end of a guest.
  std::signal(SIGPIPE, SIG_IGN);
  GlobalOptions global;
  // Also for what goes wrong before the options are read.
  const std::vector<std::string> words(argv + 1, argv + argc);
  global.json = std::find(words.begin(), words.end(), "--json") != words.end();

  CLI::App app("Live-migrates running guests between hosts", "migrate");
  app.set_version_flag("--version", migrate::tool::kVersion);
  app.require_subcommand(1);
  app.fallthrough();
  app.footer(kFooter);
  add_global_options(app, global);
  Action chosen;
  for (const auto add :
       {migrate::tool::add_run,        migrate::tool::add_recv,    migrate::tool::add_send,
        migrate::tool::add_checkpoint, migrate::tool::add_restore, migrate::tool::add_image,
        migrate::tool::add_ps,         migrate::tool::add_status,  migrate::tool::add_stats,
        migrate::tool::add_console,    migrate::tool::add_pause,   migrate::tool::add_resume,
        migrate::tool::add_stop,       migrate::tool::add_cancel,  migrate::tool::add_resolve,
        migrate::tool::add_predict,    migrate::tool::add_what_if, migrate::tool::add_doctor,
        migrate::tool::add_announce,   migrate::tool::add_keygen}) {
    add(app, global, chosen);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);  // --help, --version
  } catch (const CLI::ParseError& error) {
    return usage_error(global, app, error, words);
  }
  migrate::set_log_sink(global.log_level, write_log);
  try {
    return chosen();
  } catch (const std::exception& failure) {
    // Only from libraries of this command, such as on an answer of a shape nobody expects.
    return fail(global, migrate::make_error(migrate::ErrorCode::kInternal, failure.what()));
  }
}
