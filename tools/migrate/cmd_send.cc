// migrate send: moves a guest of this host to another one.
#include <csignal>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>

#include "command.hpp"
#include "container_migration.hpp"
#include "container_names.hpp"
#include "container_options.hpp"
#include "control_client.hpp"
#include "detach.hpp"
#include "follow.hpp"
#include "guest_request.hpp"
#include "image_migration.hpp"
#include "migrate/endpoint.hpp"
#include "migrate/options.hpp"
#include "runtime_dir.hpp"
#include "tls_options.hpp"

namespace migrate::tool {
namespace {

struct SendOptions {
  std::string guest;
  std::string target;
  std::map<std::string, std::string> migration;  ///< By name, as given.
  std::string events;
  TlsChoice security;
  ContainerChoice container;
  bool detach = false;
};

struct FileCloser {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, FileCloser>;

/// Wrong values are told before anything is asked of the guest.
Result<Json> request_body(const SendOptions& options) {
  MIGRATE_ASSIGN(const Endpoint target, parse_endpoint(options.target, EndpointUse::kSend));
  Json values = Json::object();
  OutgoingOptions checked;
  for (const auto& [name, value] : options.migration) {
    MIGRATE_TRY(set_option(checked, name, value));
    values[name] = value;
  }
  const TlsChoice security{with_absolute_paths(options.security.files), options.security.insecure};
  MIGRATE_TRY(make_security(TlsRole::kConnect, security, target));
  Json body{{"target", options.target}, {"options", values}, {"insecure", security.insecure}};
  if (security.files.enabled()) body["tls"] = to_json(security.files);
  return body;
}

/// A migration that never began is told in the report's shape too.
int fail_report(const GlobalOptions& global, const Error& error) {
  if (error.code == ErrorCode::kInvalidArgument || !global.json) return fail(global, error);
  print_json(to_json(report_of(Outcome::kFailed, Side::kSource, error), host_facts()));
  return to_int(exit_code(error));
}

/// Asks the guest's process to cancel; says when it is too late.
bool cancel(const std::filesystem::path& socket) {
  const auto answer = control_request(socket, "DELETE", "/v1/migration");
  // kNotFound: it has ended, its report is on the way.
  if (!answer && answer.error().code != ErrorCode::kNotFound) {
    std::fprintf(stderr, "migrate: not cancelled: %s\n", answer.error().to_text().c_str());
  }
  return true;
}

constexpr std::string_view kImagePrefix = "image:";

/// The guest of a file: this process is its only one.
int send_file(const GlobalOptions& global, const SendOptions& options) {
  if (options.detach || !options.events.empty()) {
    return fail(global, make_error(ErrorCode::kInvalidArgument,
                                   "an image is sent by this command itself, which cannot leave")
                            .advise("leave --detach and --events out"));
  }
  const auto checked = request_body(options);
  if (!checked) return fail_report(global, checked.error());
  OutgoingOptions migration;
  for (const auto& [name, value] : options.migration) {
    static_cast<void>(set_option(migration, name, value));
  }
  const auto target = parse_endpoint(options.target, EndpointUse::kSend);
  const auto tls = make_security(TlsRole::kConnect, options.security, *target);
  if (!tls) return fail_report(global, tls.error());
  const auto signals = SignalFd::open({SIGINT, SIGTERM});
  if (!signals) return fail_report(global, signals.error());
  const auto connector = secured(make_connector(*target, migration.sockets), *tls);
  return send_image(global, options.guest.substr(kImagePrefix.size()), *connector, migration,
                    *signals);
}

Result<File> open_events(const std::string& path) {
  if (path.empty()) return File();
  File events(std::fopen(path.c_str(), "we"));
  if (events) return events;
  return make_errno_error(ErrorCode::kInvalidArgument, errno, "cannot write --events " + path)
      .advise("give a file that you may write");
}

// What came for the tree while it stood goes after it, and what still comes here until switches and
// neighbours have heard the first announcements (0, 50 and 200 ms after its start).
constexpr std::chrono::milliseconds kTreeForward{250};

/// A process tree: this process hosts it for as long as it is sent.
int send_tree(const GlobalOptions& global, const SendOptions& options) {
  const auto process = find_container(options.guest);
  if (!process) return fail_report(global, process.error());
  const auto checked = request_body(options);
  if (!checked) return fail_report(global, checked.error());
  MigrationRequest request;
  request.options.max_downtime = kTreeDowntime;
  if (!options.container.link.empty()) request.options.forward = kTreeForward;
  for (const auto& [name, value] : options.migration) {
    static_cast<void>(set_option(request.options, name, value));
  }
  const auto target = parse_endpoint(options.target, EndpointUse::kSend);
  request.target = *target;
  const auto tls = make_security(TlsRole::kConnect, options.security, *target);
  if (!tls) return fail_report(global, tls.error());
  request.tls = *tls;
  const auto events = open_events(options.events);
  if (!events) return fail_report(global, events.error());
  std::optional<Detacher> detacher;
  if (options.detach) {
    auto made = Detacher::start();
    if (!made) return fail_report(global, made.error());
    detacher = *std::move(made);
  }
  const auto signals = SignalFd::open({SIGINT, SIGTERM});
  if (!signals) return fail_report(global, signals.error());
  return send_container(global, *process, options.container, std::move(request), events->get(),
                        *signals, std::move(detacher));
}

int send(const GlobalOptions& global, const SendOptions& options) {
  if (names_container(options.guest)) return send_tree(global, options);
  if (options.guest.rfind(kImagePrefix, 0) == 0) return send_file(global, options);
  const auto name = vm_name(options.guest);
  if (!name) return fail_report(global, name.error());
  const auto body = request_body(options);
  if (!body) return fail_report(global, body.error());
  const auto folder = RuntimeDir::open();
  if (!folder) return fail_report(global, folder.error());
  const auto events = open_events(options.events);
  if (!events) return fail_report(global, events.error());
  const auto signals = SignalFd::open({SIGINT, SIGTERM});
  if (!signals) return fail_report(global, signals.error());

  // Followed before it starts: a small guest is gone before a second connection is made.
  const std::filesystem::path socket = folder->socket_path(*name);
  const auto stream = EventStream::open(socket);
  if (!stream) return fail_report(global, stream.error());
  const auto answer = control_request(socket, "PUT", "/v1/migration", *body);
  if (!answer) return fail_report(global, answer.error());
  if (options.detach) {
    print_send_start(global, *name, answer->value("migration", std::uint64_t{0}),
                     answer->value("target", ""));
    return to_int(ExitCode::kDone);
  }

  FollowOptions follow;
  follow.migration = answer->value("migration", std::uint64_t{0});
  follow.target = options.target;
  follow.event_lines = !global.json;
  follow.events = events->get();
  follow.on_signal = [&socket](int) { return cancel(socket); };
  const auto report = follow_migration(**stream, *signals, follow);
  print_report(global, *report);
  return report_exit_code(*report);
}

}  // namespace

void add_send(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto options = std::make_shared<SendOptions>();
  CLI::App* command = app.add_subcommand("send", "Send a guest of this host to another one");
  command
      ->add_option("GUEST", options->guest,
                   "vm:NAME, as in `migrate ps`; pid:PID or container:NAME, a process tree; or "
                   "image:FILE, the guest of a checkpoint")
      ->required()
      ->type_name("");
  command
      ->add_option("TARGET", options->target,
                   "Where `migrate recv` listens: HOST:PORT, unix:PATH or vsock:CID:PORT")
      ->required()
      ->type_name("");
  const OutgoingOptions defaults;
  for (const OptionSpec& spec : outgoing_option_registry()) {
    const std::string name(spec.name);
    command
        ->add_option_function<std::string>(
            "--" + name,
            [options, name](const std::string& value) { options->migration[name] = value; },
            std::string(spec.help) + " (default: " + spec.get(defaults) + ")")
        ->type_name(std::string(spec.argument));
  }
  command->add_option("--events", options->events, "Write every event to FILE as a line of JSON")
      ->type_name("FILE");
  add_container_source_options(*command, options->container);
  add_container_tracker_option(*command, options->container);
  command
      ->add_option("--rsync", options->container.synced,
                   "Containers: copy this folder by rsync(1) before, and what has changed of it "
                   "once more while the tree stands")
      ->type_name("FROM=TO");
  add_tls_options(*command, options->security, TlsRole::kConnect);
  command->add_flag("--detach", options->detach, "Return once the migration has begun");
  command->callback([&global, &chosen, options] {
    chosen = [&global, options] { return send(global, *options); };
  });
}

}  // namespace migrate::tool
