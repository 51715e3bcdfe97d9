// What the subcommands share: the options that are everywhere, and how an outcome is told.
#pragma once

#include <CLI/App.hpp>
#include <functional>
#include <string>

#include "base/log.hpp"
#include "exit_code.hpp"
#include "migrate/result.hpp"
#include "report_json.hpp"

namespace migrate::tool {

struct GlobalOptions {
  bool json = false;
  LogLevel log_level = LogLevel::kWarning;
};

/// What the command line asked for; gives the exit code.
using Action = std::function<int()>;

/// Each adds its subcommand and sets `chosen` when it is the one on the command line. What is
/// passed must live until the action has run.
void add_run(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_recv(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_send(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_checkpoint(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_restore(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_image(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_announce(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_keygen(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_ps(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_status(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_stats(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_console(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_pause(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_resume(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_stop(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_cancel(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_resolve(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_predict(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_what_if(CLI::App& app, const GlobalOptions& global, Action& chosen);
void add_doctor(CLI::App& app, const GlobalOptions& global, Action& chosen);

/// One line on standard output.
void print_json(const Json& json);
/// Says an error, as {"error":{...}} on standard output or as text on standard error, and gives its
/// exit code.
int fail(const GlobalOptions& global, const Error& error);
/// Says how a migration ended on this side: the report whole, as JSON or as text.
void print_report(const GlobalOptions& global, const Json& report);

}  // namespace migrate::tool
