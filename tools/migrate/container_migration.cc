#include "container_migration.hpp"

#include <memory>
#include <utility>

#include "base/log.hpp"
#include "container_guest.hpp"
#include "control_client.hpp"
#include "follow.hpp"
#include "hosting.hpp"
#include "runtime_dir.hpp"

namespace migrate::tool {
namespace {

struct Hosted {
  std::unique_ptr<ContainerGuest> guest;
  std::unique_ptr<Hosting> hosting;
};

Result<Hosted> host(const ContainerProcess& process, const ContainerChoice& choice,
                    const RuntimeDir& runtime) {
  MIGRATE_ASSIGN(auto options, container_source_options(choice, runtime));
  options.root = process.root;
  options.name = process.name;
  Hosted hosted;
  MIGRATE_ASSIGN(NameLock name, runtime.take_name(process.name));
  std::vector<SyncedFolder> folders;
  for (const std::string& text : choice.synced) {
    MIGRATE_ASSIGN(SyncedFolder folder, parse_synced_folder(text));
    folders.push_back(std::move(folder));
  }
  MIGRATE_ASSIGN(hosted.guest, ContainerGuest::create(options, std::move(folders)));
  MIGRATE_ASSIGN(hosted.hosting, Hosting::create(*hosted.guest, std::move(name), runtime, false));
  MIGRATE_TRY(hosted.hosting->open());
  return hosted;
}

/// As for a migration that never began.
int fail_report(const GlobalOptions& global, const Error& error) {
  if (error.code == ErrorCode::kInvalidArgument || !global.json) return fail(global, error);
  print_json(to_json(report_of(Outcome::kFailed, Side::kSource, error), host_facts()));
  return to_int(exit_code(error));
}

}  // namespace

int send_container(const GlobalOptions& global, const ContainerProcess& process,
                   const ContainerChoice& choice, MigrationRequest request, std::FILE* events,
                   const SignalFd& signals) {
  const auto folder = RuntimeDir::open();
  if (!folder) return fail_report(global, folder.error());
  auto hosted = host(process, choice, *folder);
  if (!hosted) return fail_report(global, hosted.error());
  GuestHost& guest = hosted->hosting->host();
  const auto stream = EventStream::open(folder->socket_path(process.name));
  if (!stream) return fail_report(global, stream.error());
  FollowOptions follow;
  follow.target = request.target.text();
  follow.event_lines = !global.json;
  follow.events = events;
  follow.wait_for_end = false;
  follow.on_signal = [&guest](int) {
    if (const Status cancelled = guest.cancel_migration(); !cancelled) {
      log_line(LogLevel::kWarning, "not cancelled: " + cancelled.error().to_text());
    }
    return true;
  };
  const auto number = guest.start_migration(std::move(request));
  if (!number) return fail_report(global, number.error());
  follow.migration = *number;
  const auto report = follow_migration(**stream, signals, follow);
  print_report(global, *report);
  std::fflush(stdout);
  const int code = report_exit_code(*report);
  if (code == to_int(ExitCode::kUncertain)) {
    log_line(LogLevel::kWarning,
             "the tree is kept, standing, until its owner is known: `migrate "
             "resolve " +
                 process.name + "`");
  }
  hosted->hosting->serve_migration(signals);
  return code;
}

}  // namespace migrate::tool
