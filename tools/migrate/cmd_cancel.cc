// migrate cancel: ends a guest's migration; the guest goes on here.
#include <csignal>
#include <cstdio>
#include <memory>

#include "command.hpp"
#include "follow.hpp"
#include "guest_request.hpp"

namespace migrate::tool {
namespace {

Error not_under_way(const std::string& name) {
  return make_error(ErrorCode::kNotFound, "no migration of '" + name + "' is under way")
      .advise("see `migrate status`");
}

/// The number of the migration under way.
Result<std::uint64_t> current_migration(const std::filesystem::path& socket,
                                        const std::string& name) {
  MIGRATE_ASSIGN(const Json guest, control_request(socket, "GET", "/v1/guest"));
  if (guest.value("state", "") == "uncertain") {
    return make_error(ErrorCode::kUncertain,
                      "the handover of '" + name + "' is committed and its outcome not known")
        .advise("see `migrate resolve`");
  }
  const auto migration = guest.find("migration");
  if (migration == guest.end() || !migration->is_object() || !migration->value("running", false)) {
    return not_under_way(name);
  }
  return migration->value("migration", std::uint64_t{0});
}

int cancel(const GlobalOptions& global, const std::string& name) {
  const auto socket = guest_socket(name);
  if (!socket) return fail(global, socket.error());
  const auto signals = SignalFd::open({SIGINT, SIGTERM});
  if (!signals) return fail(global, signals.error());
  const auto stream = EventStream::open(*socket);
  if (!stream) return fail(global, stream.error());
  const auto number = current_migration(*socket, name);
  if (!number) return fail(global, number.error());
  const auto answer = control_request(*socket, "DELETE", "/v1/migration");
  if (!answer) return fail(global, answer.error());

  FollowOptions follow;
  follow.migration = *number;
  follow.event_lines = false;
  follow.on_signal = [](int) { return false; };
  const auto report = follow_migration(**stream, *signals, follow);
  if (!report) return to_int(ExitCode::kFailed);
  const std::string outcome = report->value("outcome", "");
  if (outcome != to_string(Outcome::kCancelled)) {
    return fail(global,
                make_error(ErrorCode::kBusy, "the migration ended as it was cancelled: " + outcome)
                    .advise("see `migrate status`"));
  }
  if (global.json) {
    print_json({{"name", name}, {"outcome", outcome}});
  } else {
    std::printf("the migration of %s is cancelled; the guest goes on here\n", name.c_str());
  }
  return to_int(ExitCode::kDone);
}

}  // namespace

void add_cancel(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto name = std::make_shared<std::string>();
  CLI::App* command =
      app.add_subcommand("cancel", "Cancel a guest's migration; refused once it is handed over");
  command->add_option("NAME", *name, "The guest")->required()->type_name("");
  command->callback(
      [&global, &chosen, name] { chosen = [&global, name] { return cancel(global, *name); }; });
}

}  // namespace migrate::tool
