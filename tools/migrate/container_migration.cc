#include "container_migration.hpp"

#include <poll.h>

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

// Between looks at a migration whose events do not come any more.
constexpr int kLookMs = 100;

/// Of the migration under way, once it has ended. A signal cancels it.
Json wait_for_report(GuestHost& guest, const SignalFd& signals) {
  for (;;) {
    if (const auto view = guest.migration(); view && view->report) return *view->report;
    pollfd signal{signals.fd(), POLLIN, 0};
    if (::poll(&signal, 1, kLookMs) > 0 && signals.take() != 0) {
      static_cast<void>(guest.cancel_migration());
    }
  }
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
                   const SignalFd& signals, std::optional<Detacher> detacher) {
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
  follow.report_here = [&] { return wait_for_report(guest, signals); };
  const auto number = guest.start_migration(std::move(request));
  if (!number) return fail_report(global, number.error());
  follow.migration = *number;
  GlobalOptions telling = global;
  if (detacher) {
    print_send_start(global, process.name, *number, follow.target);
    if (const Status ready = detacher->ready(folder->log_path(process.name)); !ready) {
      log_line(LogLevel::kWarning, "not sent: " + ready.error().to_text());
      static_cast<void>(guest.cancel_migration());
    }
    telling.json = follow.event_lines = false;
  }
  const auto report = follow_migration(**stream, signals, follow);
  print_report(telling, *report);
  std::fflush(stdout);
  const int code = report_exit_code(*report);
  if (code == to_int(ExitCode::kUncertain)) {
    log_line(LogLevel::kWarning,
             "the tree is kept, standing, until its owner is known: `migrate "
             "resolve " +
                 process.name + "`");
  }
  hosted->hosting->serve_migration(signals);
  if (detacher && code == to_int(ExitCode::kDone)) drop_log(folder->log_path(process.name));
  return code;
}

void print_send_start(const GlobalOptions& global, const std::string& name, std::uint64_t migration,
                      const std::string& target) {
  if (global.json) {
    print_json({{"name", name}, {"migration", migration}, {"target", target}});
  } else {
    std::printf("%s is being sent to %s; follow with `migrate status %s --follow`\n", name.c_str(),
                target.c_str(), name.c_str());
  }
}

}  // namespace migrate::tool
