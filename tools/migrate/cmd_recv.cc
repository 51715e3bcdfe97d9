// migrate recv: takes guests that other hosts send.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>

#include "announce_options.hpp"
#include "arrival_options.hpp"
#include "base/log.hpp"
#include "begun_acceptor.hpp"
#include "command.hpp"
#include "connection_passing.hpp"
#include "detach.hpp"
#include "image_migration.hpp"
#include "migrate/endpoint.hpp"
#include "migrate/options.hpp"
#include "receive_session.hpp"
#include "session_listener.hpp"
#include "session_spawner.hpp"
#include "tls_options.hpp"
#include "transport/tls_channel.hpp"

namespace migrate::tool {
namespace {

struct RecvOptions {
  std::string listen;
  bool once = false;
  std::string into;
  bool detach = false;
  TlsChoice security;
  std::string accept = "vm";
  ArrivalOptions arrival;
  std::vector<std::string> machine_words;  ///< With absolute paths, for sessions' processes.
  ReceiveOptions session;
  SessionProcess process;  ///< Of a process that a listener started for one session.
};

/// The receiving side's times; the defaults are IncomingOptions'.
struct TimeOption {
  const char* name;
  const char* help;
  std::chrono::milliseconds IncomingOptions::*field;
};
constexpr TimeOption kTimeOptions[] = {
    {"hello-timeout", "How long a connection may take to introduce itself",
     &IncomingOptions::hello_timeout},
    {"peer-timeout", "After how long a silent source is given up", &IncomingOptions::peer_timeout},
    {"ask-window", "How long to wait for a source that may ask for the outcome",
     &IncomingOptions::ask_window},
    {"lease", "How long a READY binds this side", &IncomingOptions::lease},
};
// What of a process tree the engine does not move page by page (CRIU's images of files, sockets and
// shared memory) is held here while it arrives.
constexpr std::uint64_t kContainerStateMax = std::uint64_t{4} << 30;
// As the sending side's timeouts.
constexpr std::chrono::hours kTimeMax{24};

Status set_time(IncomingOptions& options, const TimeOption& option, const std::string& value) {
  MIGRATE_ASSIGN(const auto time, parse_duration(value));
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(time);
  if (ms != time || ms.count() <= 0 || ms > kTimeMax) {
    return make_error(ErrorCode::kInvalidArgument, "'" + value + "' is no time for this")
        .advise("give 1ms to 24 hours (86400s), in whole ms, such as 10s");
  }
  options.*option.field = ms;
  return {};
}

Result<Endpoint> listen_endpoint(const RecvOptions& options) {
  MIGRATE_ASSIGN(const Endpoint endpoint, parse_endpoint(options.listen, EndpointUse::kListen));
  if (!options.session.guest.name.empty())
    MIGRATE_TRY(check_guest_name(options.session.guest.name));
  return endpoint;
}

void tell_listening(const GlobalOptions& global, const RecvOptions& options,
                    const std::string& address) {
  if (global.json && options.detach) {
    print_json({{"address", address}, {"pid", getpid()}});
  } else {
    // Standard output is the report's.
    std::fprintf(stderr, "listening on %s\n", address.c_str());
  }
}

/// Where a detached process writes; by port or path, for guests are not known yet.
std::filesystem::path log_of(const RuntimeDir& folder, const std::string& address) {
  std::string name = "recv-" + address.substr(address.rfind(':') + 1);
  std::replace(name.begin(), name.end(), '/', '-');
  return folder.log_path(name);
}

/// One session in this process.
int recv_once(const GlobalOptions& global, const RecvOptions& options, const Endpoint& endpoint,
              const std::shared_ptr<TlsContext>& tls, const RuntimeDir& folder,
              std::optional<Detacher> detacher) {
  const auto signals = SignalFd::open({SIGINT, SIGTERM, SIGHUP});
  if (!signals) return fail(global, signals.error());
  const SocketOptions& sockets = options.session.sockets;
  auto acceptor = make_acceptor(endpoint, sockets);
  if (!acceptor) return fail(global, acceptor.error());
  const auto session = ReceiveSession::create(folder, options.session, global);
  if (!session) return fail(global, session.error());
  const std::filesystem::path log = log_of(folder, (*acceptor)->address());
  tell_listening(global, options, (*acceptor)->address());
  if (detacher) {
    if (const Status ready = detacher->ready(log); !ready) return fail(global, ready.error());
  }
  // The address is free for the next `recv` as soon as the session is over. The kernel chose the
  // port, or is to be asked for another copy of what was inherited.
  auto bound = parse_endpoint((*acceptor)->address(), EndpointUse::kListen);
  const bool inherited = endpoint.kind == Endpoint::Kind::kInherited;
  const Endpoint again = bound && !inherited ? *std::move(bound) : endpoint;
  const auto reopen = [&]() -> Result<std::unique_ptr<Acceptor>> {
    MIGRATE_ASSIGN(auto plain, make_acceptor(again, sockets));
    return secured(std::move(plain), tls);
  };
  const int code = (*session)->run(secured(*std::move(acceptor), tls), reopen, *signals, [] {});
  if (detacher && code == 0) drop_log(log);
  return code;
}

/// One session into a file.
int recv_into(const GlobalOptions& global, const RecvOptions& options, const Endpoint& endpoint,
              const std::shared_ptr<TlsContext>& tls) {
  const auto signals = SignalFd::open({SIGINT, SIGTERM, SIGHUP});
  if (!signals) return fail(global, signals.error());
  auto acceptor = make_acceptor(endpoint, options.session.sockets);
  if (!acceptor) return fail(global, acceptor.error());
  tell_listening(global, options, (*acceptor)->address());
  CheckpointOptions image;
  image.path = options.into;
  return receive_image(global, image, secured(*std::move(acceptor), tls), options.session.incoming,
                       *signals);
}

/// Reaps the processes of sessions that have ended; they have told how themselves.
void reap() {
  while (waitpid(-1, nullptr, WNOHANG) > 0) {
  }
}

/// Stays, with a process for each session.
int recv_many(const GlobalOptions& global, const RecvOptions& options, const Endpoint& endpoint,
              const std::shared_ptr<TlsContext>& tls, const RuntimeDir& folder,
              std::optional<Detacher> detacher) {
  const auto signals = SignalFd::open({SIGINT, SIGTERM, SIGHUP, SIGCHLD});
  if (!signals) return fail(global, signals.error());
  const auto listener =
      SessionListener::open(endpoint, folder, options.session.incoming.hello_timeout, tls);
  if (!listener) return fail(global, listener.error());
  const std::string address = (*listener)->address();
  std::vector<std::string> arguments = session_arguments(global, options.session);
  arguments.insert(arguments.end(), options.machine_words.begin(), options.machine_words.end());
  for (std::string& argument : container_arguments(options.session.accept.containers)) {
    arguments.push_back(std::move(argument));
  }
  arguments.push_back("--accept");
  arguments.push_back(to_text(options.session.accept));
  for (std::string& argument : tls_arguments(options.security.files)) {
    arguments.push_back(std::move(argument));
  }
  SessionSpawner spawner(std::move(arguments), address);
  const std::filesystem::path log = log_of(folder, address);
  tell_listening(global, options, address);
  if (detacher) {
    if (const Status ready = detacher->ready(log); !ready) return fail(global, ready.error());
  }
  for (;;) {
    (*listener)->run(spawner, signals->fd());
    for (int signal = signals->take(); signal != 0; signal = signals->take()) {
      reap();
      if (signal == SIGCHLD) continue;
      // Guests that arrived, or are arriving, go on in their own processes.
      if (detacher) drop_log(log);
      return to_int(ExitCode::kDone);
    }
  }
}

/// The connection that began the session, secured: who does not come so far has begun nothing, and
/// its process ends. What it says of it is the listener's log.
Result<std::unique_ptr<Channel>> first_channel(Fd connection,
                                               const std::shared_ptr<TlsContext>& tls,
                                               const ReceiveOptions& options) {
  MIGRATE_ASSIGN(auto plain, make_socket_channel(connection.release(), options.sockets));
  if (!tls) return plain;
  const std::string peer = plain->peer();
  MIGRATE_ASSIGN(auto channel, TlsChannel::create(std::move(plain), tls));
  if (const Status done = channel->handshake(options.incoming.hello_timeout); !done) {
    log_line(LogLevel::kWarning, "refused " + peer + ": " + done.error().to_text());
    return done.error();
  }
  return std::unique_ptr<Channel>(std::move(channel));
}

/// What a listener started for one session.
int serve_session(const GlobalOptions& global, const RecvOptions& options,
                  const RuntimeDir& folder) {
  const auto signals = SignalFd::open({SIGINT, SIGTERM, SIGHUP});
  if (!signals) return fail(global, signals.error());
  const auto id = wire::parse_session_id(options.process.session);
  if (!id) return fail(global, id.error());
  std::shared_ptr<TlsContext> tls;
  if (options.security.files.enabled()) {
    auto made = make_tls_context(TlsRole::kAccept, options.security.files);
    if (!made) return fail(global, made.error());
    tls = *std::move(made);
  }
  const std::filesystem::path lanes = lanes_path(folder, *id);
  const std::string& address = options.process.address;
  const auto open = [&]() -> Result<std::unique_ptr<Acceptor>> {
    MIGRATE_ASSIGN(auto acceptor, PassedAcceptor::open(lanes, address, options.session.sockets));
    return secured(std::move(acceptor), tls);
  };
  Fd arriving(options.process.arriving_fd);
  auto others = open();
  if (!others) return fail(global, others.error());
  auto first = first_channel(Fd(options.process.connection_fd), tls, options.session);
  if (!first) return to_int(ExitCode::kFailed);
  auto acceptor = std::make_unique<BegunAcceptor>(*std::move(first), *std::move(others));
  ReceiveOptions of_session = options.session;
  of_session.hello_is_due = true;
  const auto session = ReceiveSession::create(folder, of_session, global);
  if (!session) return fail(global, session.error());
  return (*session)->run(std::move(acceptor), open, *signals, [&] { arriving.reset(); });
}

int recv(const GlobalOptions& global, RecvOptions options) {
  const auto folder = RuntimeDir::open();
  if (!folder) return fail(global, folder.error());
  options.security.files = with_absolute_paths(options.security.files);
  options.session.incoming.runtime_dir = folder->path().string();
  const auto machine = parse_machine(options.arrival.machine);
  if (!machine) return fail(global, machine.error());
  auto guest = parse_arrival(options.arrival, *machine);
  if (!guest) return fail(global, guest.error());
  options.session.guest = *std::move(guest);
  AnnounceChoice& announce = options.session.takeover.announce;
  announce.by_card = announced_by_card(machine->nets);
  if (const Status kinds = parse_accept(options.accept, options.session.accept); !kinds) {
    return fail(global, kinds.error());
  }
  if (options.session.accept.container) {
    options.session.incoming.state_bytes_max =
        std::max(options.session.incoming.state_bytes_max, kContainerStateMax);
  }
  options.machine_words = machine_arguments(*machine);
  if (!options.process.session.empty()) return serve_session(global, options, *folder);
  if (const Status there = check_announce(announce); !there) return fail(global, there.error());
  for (const std::string& doubt : announce_doubts(options.session.guest.nets, announce)) {
    log_line(LogLevel::kWarning, "guests that arrive may not be announced: " + doubt);
  }
  const auto endpoint = listen_endpoint(options);
  if (!endpoint) return fail(global, endpoint.error());
  const auto tls = make_security(TlsRole::kAccept, options.security, *endpoint);
  if (!tls) return fail(global, tls.error());
  if (!options.into.empty()) return recv_into(global, options, *endpoint, *tls);
  std::optional<Detacher> detacher;
  if (options.detach) {
    auto made = Detacher::start();
    if (!made) return fail(global, made.error());
    detacher = *std::move(made);
  }
  return options.once ? recv_once(global, options, *endpoint, *tls, *folder, std::move(detacher))
                      : recv_many(global, options, *endpoint, *tls, *folder, std::move(detacher));
}

}  // namespace

void add_recv(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto options = std::make_shared<RecvOptions>();
  CLI::App* command = app.add_subcommand("recv", "Take guests that other hosts send");
  CLI::Option* listen =
      command
          ->add_option(
              "--listen", options->listen,
              "Where to listen: HOST:PORT (port 0 picks one), unix:PATH, vsock:PORT or fd:N")
          ->type_name("ADDRESS");
  command->add_flag("--once", options->once,
                    "Take one session, host its guest, and exit when that has ended");
  CLI::Option* into =
      command
          ->add_option("--into", options->into,
                       "Take one guest into this file instead, as a checkpoint: it does not run")
          ->type_name("FILE");
  command
      ->add_option("--accept", options->accept,
                   "Kinds of guests to take: vm, container (default: vm); taking a container runs "
                   "what its source sends, as root")
      ->type_name("KINDS");
  add_container_target_options(*command, options->session.accept.containers);
  add_arrival_options(*command, options->arrival);
  add_takeover_options(*command, options->session.takeover);
  for (const TimeOption& option : kTimeOptions) {
    command
        ->add_option_function<std::string>(
            std::string("--") + option.name,
            [options, &option](const std::string& value) {
              const Status set = set_time(options->session.incoming, option, value);
              if (!set) throw CLI::ValidationError(option.name, set.error().to_text());
            },
            std::string(option.help) +
                " (default: " + format_duration(options->session.incoming.*option.field) + ")")
        ->type_name("TIME");
  }
  command
      ->add_option_function<std::string>(
          "--io",
          [options](const std::string& value) {
            // The names are the sending side's.
            OutgoingOptions parsed;
            const Status set = set_option(parsed, "io", value);
            if (!set) throw CLI::ValidationError("--io", set.error().to_text());
            options->session.sockets.io = parsed.sockets.io;
          },
          "How bytes get through the sockets; uring needs io_uring (default: auto)")
      ->type_name("auto|poll|uring");
  add_tls_options(*command, options->security, TlsRole::kAccept);
  command->add_flag("--detach", options->detach, "Go to the background once it listens")
      ->excludes(into);
  CLI::Option* session = add_session_process_options(*command, options->process);
  command->callback([&global, &chosen, options, listen, session] {
    if (listen->empty() && session->empty()) throw CLI::RequiredError("--listen");
    chosen = [&global, options] { return recv(global, *options); };
  });
}

}  // namespace migrate::tool
