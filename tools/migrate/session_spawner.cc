#include "session_spawner.hpp"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "base/log.hpp"
#include "migrate/options.hpp"
#include "tracker_option.hpp"

namespace migrate::tool {
namespace {

// Guests that arrive at one time: each may claim its memory before it has proved anything, and more
// of them at once only share the link.
constexpr std::size_t kArrivingMax = 16;
// Where the child finds its descriptors. What is moved there must come from beyond.
constexpr int kConnectionFd = 3;
constexpr int kArrivingFd = 4;
constexpr int kFirstFreeFd = 5;

/// A copy that is in nobody's way.
Fd out_of_the_way(int fd) { return Fd(::fcntl(fd, F_DUPFD_CLOEXEC, kFirstFreeFd)); }

/// posix_spawn's two objects, freed.
class SpawnPlan {
 public:
  SpawnPlan(int connection, int arriving) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawn_file_actions_adddup2(&actions_, connection, kConnectionFd);
    posix_spawn_file_actions_adddup2(&actions_, arriving, kArrivingFd);
    posix_spawnattr_init(&attributes_);
    // A session of its own: ^C at the listener's terminal does not end guests.
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes_, &none);
  }
  ~SpawnPlan() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  int run(std::vector<std::string>& arguments) {
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    pid_t child = 0;
    return posix_spawn(&child, "/proc/self/exe", &actions_, &attributes_, pointers.data(), environ);
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

}  // namespace

CLI::Option* add_session_process_options(CLI::App& command, SessionProcess& process) {
  CLI::Option* session = command.add_option("--session", process.session)->group("");
  command.add_option("--connection-fd", process.connection_fd)->group("")->needs(session);
  command.add_option("--arriving-fd", process.arriving_fd)->group("")->needs(session);
  command.add_option("--listener", process.address)->group("")->needs(session);
  return session;
}

std::vector<std::string> session_arguments(const GlobalOptions& global,
                                           const ReceiveOptions& options) {
  const auto time = [](std::chrono::milliseconds value) { return format_duration(value); };
  std::vector<std::string> arguments = {
      "migrate",         "recv",
      "--log-level",     std::string(to_string(global.log_level)),
      "--hello-timeout", time(options.incoming.hello_timeout),
      "--peer-timeout",  time(options.incoming.peer_timeout),
      "--ask-window",    time(options.incoming.ask_window),
      "--lease",         time(options.incoming.lease),
      "--tracker",       std::string(tracker_name(options.guest.tracking))};
  if (options.guest.huge_page_bytes != 0) {
    arguments.push_back("--huge-pages=" + format_size(options.guest.huge_page_bytes));
  }
  arguments.insert(arguments.end(), {"--io", std::string(to_string(options.sockets.io))});
  if (global.json) arguments.push_back("--json");
  for (std::string& word : takeover_arguments(options.takeover)) {
    arguments.push_back(std::move(word));
  }
  if (!options.guest.name.empty()) {
    arguments.push_back("--name");
    arguments.push_back(options.guest.name);
  }
  return arguments;
}

Status SessionSpawner::start(const wire::SessionId& session, Fd connection,
                             const std::string& peer) {
  forget_ended();
  if (arriving_.size() >= kArrivingMax) {
    return make_error(ErrorCode::kBusy, std::to_string(arriving_.size()) +
                                            " guests are arriving on this host already")
        .advise("try again when some have arrived");
  }
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot create a pipe");
  }
  Fd mine(ends[0]);
  const Fd given(ends[1]);
  const Fd connection_copy = out_of_the_way(connection.get());
  const Fd given_copy = out_of_the_way(given.get());
  std::vector<std::string> arguments = arguments_;
  for (const std::string& argument :
       {std::string("--session"), wire::to_text(session), std::string("--connection-fd"),
        std::to_string(kConnectionFd), std::string("--arriving-fd"), std::to_string(kArrivingFd),
        std::string("--listener"), address_}) {
    arguments.push_back(argument);
  }
  SpawnPlan plan(connection_copy.get(), given_copy.get());
  if (const int failure = plan.run(arguments); failure != 0) {
    return make_errno_error(ErrorCode::kIo, failure, "cannot start a process for the session")
        .advise("check the host's limits of processes and memory");
  }
  log_line(LogLevel::kInfo, "session " + wire::to_text(session) + " from " + peer);
  arriving_.push_back(std::move(mine));
  return {};
}

void SessionSpawner::forget_ended() {
  std::erase_if(arriving_, [](const Fd& end) {
    // Nothing is ever written: readable means that the other end is closed.
    pollfd wait{end.get(), POLLIN, 0};
    return ::poll(&wait, 1, 0) > 0;
  });
}

}  // namespace migrate::tool
