// migrate restore: a guest from an image, hosted until it stops or leaves.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "announce_options.hpp"
#include "arrival_options.hpp"
#include "checkpoint_request.hpp"
#include "command.hpp"
#include "detach.hpp"
#include "migrate/options.hpp"
#include "restore_session.hpp"

namespace migrate::tool {
namespace {

namespace fs = std::filesystem;

struct RestoreCommand {
  std::string file;
  std::vector<std::string> parents;
  bool lazy = false;
  bool mapped = false;
  bool paused = false;
  bool no_background = false;
  bool new_identity = false;
  std::string record;
  std::string record_for = "2s";
  std::string prefetch;
  unsigned lanes = 0;
  ArrivalOptions arrival;
  ContainerChoice container;
  bool detach = false;
};

Result<RestoreOptions> engine_options(const RestoreCommand& command) {
  RestoreOptions options;
  if (command.file == "-") {
    options.stream = STDIN_FILENO;
    if (command.lazy || command.mapped) {
      return make_error(ErrorCode::kInvalidArgument,
                        "what is read from a pipe cannot be restored lazily")
          .advise("leave --lazy and --mapped out, or write it to a file first");
    }
  } else {
    // A detached process stands elsewhere.
    options.path = fs::absolute(command.file).string();
  }
  for (const std::string& parent : command.parents) {
    options.search.parents.push_back(fs::absolute(parent).string());
  }
  options.mode = command.lazy     ? RestoreMode::kLazy
                 : command.mapped ? RestoreMode::kMapped
                                  : RestoreMode::kEager;
  options.paused = command.paused;
  options.lanes = command.lanes;
  options.background = !command.no_background;
  if (!command.record.empty()) options.record = fs::absolute(command.record).string();
  if (!command.prefetch.empty()) options.prefetch = fs::absolute(command.prefetch).string();
  MIGRATE_ASSIGN(const auto record_for, parse_duration(command.record_for));
  options.record_for = std::chrono::duration_cast<std::chrono::milliseconds>(record_for);
  return options;
}

/// Which kind of guest the image has.
Result<AcceptChoice> kind_of(const RestoreOptions& options) {
  AcceptChoice accept;
  if (options.path.empty()) return accept;
  MIGRATE_ASSIGN(const ImageInfo info, inspect_image(options.path, options.search));
  accept.container = info.guest.kind == GuestKind::kContainer;
  accept.vm = !accept.container;
  return accept;
}

Result<RestoreChoice> choice_of(const RestoreCommand& command) {
  RestoreChoice choice;
  MIGRATE_ASSIGN(choice.options, engine_options(command));
  if (!command.arrival.name.empty()) MIGRATE_TRY(check_guest_name(command.arrival.name));
  MIGRATE_ASSIGN(const MachineChoice machine, parse_machine(command.arrival.machine));
  MIGRATE_ASSIGN(choice.guest, parse_arrival(command.arrival, machine));
  choice.guest.new_identity = command.new_identity;
  MIGRATE_ASSIGN(choice.accept, kind_of(choice.options));
  choice.accept.containers = command.container;
  choice.announce.by_card = announced_by_card(machine.nets);
  MIGRATE_TRY(check_announce(choice.announce));
  return choice;
}

int restore(const GlobalOptions& global, const RestoreCommand& command) {
  auto choice = choice_of(command);
  if (!choice) return fail(global, choice.error());
  const auto folder = RuntimeDir::open();
  if (!folder) return fail(global, folder.error());
  std::optional<Detacher> detacher;
  if (command.detach) {
    auto made = Detacher::start();
    if (!made) return fail(global, made.error());
    detacher = *std::move(made);
  }
  const auto signals = SignalFd::open({SIGINT, SIGTERM, SIGHUP});
  if (!signals) return fail(global, signals.error());
  GlobalOptions telling = global;
  // A detached process prints what can be reached now, not how it went later.
  if (detacher) telling.json = false;
  const auto session = RestoreSession::create(*folder, *std::move(choice), telling);
  if (!session) return fail(global, session.error());
  std::optional<fs::path> log;
  const auto on_started = [&](const std::string& name) -> Status {
    const fs::path socket = folder->socket_path(name);
    if (!global.json) {
      std::printf("%s runs (pid %d, %s)\n", name.c_str(), getpid(), socket.c_str());
      std::fflush(stdout);
    } else if (detacher) {
      print_json({{"name", name}, {"pid", getpid()}, {"socket", socket.string()}});
    }
    if (!detacher) return {};
    log = folder->log_path(name);
    return detacher->ready(*log);
  };
  const int code = (*session)->run(*signals, on_started);
  if (log && code == 0) drop_log(*log);
  return code;
}

}  // namespace

void add_restore(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto options = std::make_shared<RestoreCommand>();
  CLI::App* command = app.add_subcommand(
      "restore", "Start a guest from an image and host it until it stops or leaves");
  command->add_option("FILE", options->file, "The image; - for standard input")
      ->required()
      ->type_name("");
  command
      ->add_option("--parent", options->parents,
                   "Where an image is that FILE is based on, if not where it says; any number")
      ->type_name("FILE");
  CLI::Option* lazy = command->add_flag(
      "--lazy", options->lazy, "Start it at once; what it touches is read first, then the rest");
  command
      ->add_flag("--mapped", options->mapped,
                 "Share what lies in FILE as it is with other guests of FILE, until they write it")
      ->excludes(lazy);
  CLI::Option* record =
      command
          ->add_option("--record", options->record,
                       "Write what the guest touches first to FILE, for --prefetch")
          ->type_name("FILE")
          ->needs(lazy);
  command->add_option("--record-for", options->record_for, "How long that is (default: 2s)")
      ->type_name("TIME")
      ->needs(record);
  command
      ->add_option("--prefetch", options->prefetch,
                   "Such a file of this image: what stands there is read in one go")
      ->type_name("FILE")
      ->needs(lazy);
  command
      ->add_flag("--no-background", options->no_background,
                 "Never read what the guest does not touch; FILE is needed for as long as it runs")
      ->needs(lazy);
  command->add_flag("--new-identity", options->new_identity,
                    "Make it another guest than the one in FILE: a generation id of its own, which "
                    "Linux is told of, and other MAC addresses");
  command->add_flag("--paused", options->paused, "Leave it paused");
  command->add_option("--lanes", options->lanes, "Threads that read (default: one a processor)")
      ->check(CLI::Range(0u, kImageLanesMax))
      ->type_name("N");
  add_arrival_options(*command, options->arrival);
  add_container_target_options(*command, options->container);
  command->add_flag("--detach", options->detach, "Go to the background once the guest answers");
  command->callback([&global, &chosen, options] {
    chosen = [&global, options] { return restore(global, *options); };
  });
}

}  // namespace migrate::tool
