// migrate status: what a guest does; with --follow, its migration to the end.
#include <csignal>
#include <cstdio>
#include <memory>

#include "command.hpp"
#include "control_client.hpp"
#include "follow.hpp"
#include "runtime_dir.hpp"

namespace migrate::tool {
namespace {

struct StatusOptions {
  std::string name;
  bool follow = false;
};

int show(const GlobalOptions& global, const Json& guest) {
  if (global.json) {
    print_json(guest);
    return to_int(ExitCode::kDone);
  }
  std::printf("%s: %s, %llu vCPUs, %s, %s\n", guest.value("name", "").c_str(),
              guest.value("state", "").c_str(),
              static_cast<unsigned long long>(guest.value("vcpus", std::uint64_t{0})),
              human_bytes(guest.value("memory_bytes", 0.0)).c_str(),
              guest.value("workload", "").c_str());
  if (const std::string memory = guest.value("memory", "complete"); memory != "complete") {
    const auto why = guest.find("memory_reason");
    const bool told = why != guest.end() && why->is_string();
    std::printf("  its memory %s%s%s\n", memory == "lost" ? "is lost" : memory.c_str(),
                told ? ": " : "", told ? why->get<std::string>().c_str() : "");
  }
  const auto migration = guest.find("migration");
  if (migration == guest.end() || !migration->is_object()) return to_int(ExitCode::kDone);
  const auto progress = migration->find("progress");
  if (progress != migration->end() && progress->is_object()) {
    std::printf("  to %s: %s\n", migration->value("target", "").c_str(),
                progress_text(progress_from_json(*progress), 200).c_str());
  } else if (const auto outcome = migration->find("outcome");
             outcome != migration->end() && outcome->is_string()) {
    std::printf("  last migration: %s\n", outcome->get<std::string>().c_str());
  }
  return to_int(ExitCode::kDone);
}

/// The migration under way or the last one, up to its report.
int follow(const GlobalOptions& global, const Json& guest, EventStream& stream) {
  const auto signals = SignalFd::open({SIGINT, SIGTERM});
  if (!signals) return fail(global, signals.error());
  const Json& migration = guest["migration"];
  FollowOptions options;
  options.migration = migration.value("migration", std::uint64_t{0});
  options.target = migration.value("target", "");
  options.event_lines = !global.json;
  options.on_signal = [](int) { return false; };
  const auto report = follow_migration(stream, *signals, options);
  if (!report) {
    return fail(global, make_error(ErrorCode::kCancelled, "interrupted; the migration goes on")
                            .advise("`migrate cancel` ends it"));
  }
  print_report(global, *report);
  return report_exit_code(*report);
}

int status(const GlobalOptions& global, const StatusOptions& options) {
  if (const Status named = check_guest_name(options.name); !named) {
    return fail(global, named.error());
  }
  const auto folder = RuntimeDir::open();
  if (!folder) return fail(global, folder.error());
  const std::filesystem::path socket = folder->socket_path(options.name);
  // Followed first, so that a migration cannot end unseen between the two.
  Result<std::unique_ptr<EventStream>> stream = std::unique_ptr<EventStream>();
  if (options.follow) {
    stream = EventStream::open(socket);
    if (!stream) return fail(global, stream.error());
  }
  const auto guest = control_request(socket, "GET", "/v1/guest");
  if (!guest) return fail(global, guest.error());
  const auto migration = guest->find("migration");
  const bool migrated = migration != guest->end() && migration->is_object();
  if (!options.follow || !migrated) return show(global, *guest);
  return follow(global, *guest, **stream);
}

}  // namespace

void add_status(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto options = std::make_shared<StatusOptions>();
  CLI::App* command = app.add_subcommand("status", "Show what a guest of this host does");
  command->add_option("NAME", options->name, "The guest")->required()->type_name("");
  command->add_flag("--follow", options->follow,
                    "Follow its migration to the end and exit as `send` would");
  command->callback([&global, &chosen, options] {
    chosen = [&global, options] { return status(global, *options); };
  });
}

}  // namespace migrate::tool
