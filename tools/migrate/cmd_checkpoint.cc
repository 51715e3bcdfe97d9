// migrate checkpoint: writes a guest of this host to an image.
#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "checkpoint_client.hpp"
#include "checkpoint_request.hpp"
#include "checkpoint_series.hpp"
#include "command.hpp"
#include "container_checkpoint.hpp"
#include "guest_request.hpp"
#include "image_json.hpp"
#include "json_fields.hpp"
#include "migrate/options.hpp"
#include "progress_line.hpp"
#include "stream_pump.hpp"

namespace migrate::tool {
namespace {

namespace fs = std::filesystem;

struct CheckpointCommand {
  std::string guest;
  std::string file;
  std::string base;
  std::vector<std::string> parents;
  std::string compress = "auto";
  unsigned lanes = 0;
  bool live = false;
  bool keep_tracking = false;
  bool stop = false;
  std::string every;
  std::uint64_t count = 0;
  ContainerChoice container;
};

Result<Json> request_of(const CheckpointCommand& options) {
  OutgoingOptions parsed;
  MIGRATE_TRY(set_option(parsed, "compress", options.compress));
  Json body = {{"live", options.live},
               {"keep_tracking", options.keep_tracking},
               {"stop", options.stop},
               {"lanes", options.lanes},
               {"compress", options.compress}};
  if (!options.base.empty()) body["base"] = fs::absolute(options.base).string();
  Json parents = Json::array();
  for (const std::string& parent : options.parents)
    parents.push_back(fs::absolute(parent).string());
  if (!parents.empty()) body["parents"] = std::move(parents);
  return body;
}

int report_exit(const Json& report) {
  const auto outcome = outcome_from_name(report.value("outcome", ""));
  return to_int(exit_code(outcome.value_or(Outcome::kFailed)));
}

/// `out`: standard error where standard output is the image's.
void tell(const GlobalOptions& global, const Json& report, const std::string& text,
          std::FILE* out) {
  const std::string words = global.json ? report.dump() + "\n" : text;
  std::fwrite(words.data(), 1, words.size(), out);
  std::fflush(out);
}

int to_file(const GlobalOptions& global, const CheckpointCommand& options, const fs::path& socket,
            Json body, const SignalFd& signals) {
  body["path"] = fs::absolute(options.file).string();
  bool signalled = false;
  const auto report = request_checkpoint(socket, body, signals, signalled);
  if (!report) return fail(global, report.error());
  tell(global, *report, checkpoint_text(*report), stdout);
  return report_exit(*report);
}

int to_stream(const GlobalOptions& global, const fs::path& socket, Json body,
              const SignalFd& signals) {
  // Its one object and its errors go where the image does not.
  GlobalOptions telling = global;
  telling.json = false;
  if (isatty(STDOUT_FILENO) != 0) {
    return fail(global,
                make_error(ErrorCode::kInvalidArgument, "an image is not written to a terminal")
                    .advise("give a file, or a program: `migrate checkpoint NAME - | ...`"));
  }
  const auto pump = StreamPump::start(STDOUT_FILENO);
  if (!pump) return fail(telling, pump.error());
  body["stream"] = (*pump)->path();
  bool signalled = false;
  auto report = request_checkpoint(socket, body, signals, signalled);
  // Nobody reads what is cut short, and a reader that stands still must not keep this.
  if (signalled || !report || report->value("outcome", "") != to_string(Outcome::kDone)) {
    (*pump)->give_up();
  }
  const Status through = (*pump)->finish();
  if (!report) return fail(telling, report.error());
  if (!through && report->value("outcome", "") == to_string(Outcome::kDone)) {
    return fail(telling, through.error());
  }
  tell(global, *report, checkpoint_text(*report), stderr);
  return report_exit(*report);
}

std::string series_text(const Json& summary) {
  const auto ms = [](const Json& json, const char* key) {
    double value = 0;
    take(json, key, value);
    return human_ms(value);
  };
  const Json& pause = part(summary, "pause_ms");
  std::string text = fmt::format(
      "{} checkpoints, one every {}; the latest is {}\npause        p50 {}, p99 {}, at most {}\n"
      "written in   p50 {}, at most {}\nguest held   {:.2f} % of the time\n",
      summary.value("checkpoints", 0), ms(summary, "period_ms"), summary.value("path", ""),
      ms(pause, "p50"), ms(pause, "p99"), ms(pause, "max"), ms(part(summary, "written_ms"), "p50"),
      ms(part(summary, "written_ms"), "max"), summary.value("guest_held", 0.0) * 100);
  if (const Json& error = part(summary, "error"); !error.empty()) {
    text += "error        " + error_from_json(error).to_text() + "\n";
  }
  return text;
}

int series(const GlobalOptions& global, const CheckpointCommand& options, const fs::path& socket,
           const Json& body, const SignalFd& signals) {
  SeriesOptions choice;
  choice.path = fs::absolute(options.file);
  choice.count = options.count;
  const auto every = parse_duration(options.every);
  if (!every) return fail(global, every.error());
  choice.every = *every;
  OutgoingOptions parsed;
  static_cast<void>(set_option(parsed, "compress", options.compress));
  choice.compress = parsed.compress;
  if (fs::exists(choice.path) && !fs::is_symlink(choice.path)) {
    return fail(global, make_error(ErrorCode::kInvalidArgument,
                                   choice.path.string() + " is there, and is no series' latest")
                            .advise("give another name, or remove it"));
  }
  const Json summary = CheckpointSeries(choice).run(socket, body, signals);
  tell(global, summary, series_text(summary), stdout);
  return report_exit(summary);
}

Result<CheckpointOptions> tree_options(const CheckpointCommand& command) {
  if (command.live || command.keep_tracking || !command.every.empty()) {
    return make_error(ErrorCode::kUnsupported,
                      "a process tree stands while its image is written, and is not tracked after")
        .advise(
            "leave --live, --keep-tracking and --every out; with the image before as --base only "
            "what changed is written");
  }
  OutgoingOptions parsed;
  MIGRATE_TRY(set_option(parsed, "compress", command.compress));
  CheckpointOptions options;
  options.compress = parsed.compress;
  options.lanes = command.lanes;
  options.base = command.base;
  options.search.parents = command.parents;
  if (command.file == "-") {
    options.stream = STDOUT_FILENO;
  } else {
    options.path = fs::absolute(command.file).string();
  }
  return options;
}

/// A process tree: nobody hosts it, so this process writes it.
int checkpoint_tree(const GlobalOptions& global, const CheckpointCommand& command) {
  const auto process = find_container(command.guest);
  if (!process) return fail(global, process.error());
  const auto options = tree_options(command);
  if (!options) return fail(global, options.error());
  const auto signals = SignalFd::open({SIGINT, SIGTERM});
  if (!signals) return fail(global, signals.error());
  const auto taken =
      checkpoint_container(*process, command.container, *options, command.stop, *signals);
  if (!taken) return fail(global, taken.error());
  const Json report = to_json(*taken);
  tell(global, report, checkpoint_text(report), command.file == "-" ? stderr : stdout);
  return report_exit(report);
}

int checkpoint(const GlobalOptions& global, const CheckpointCommand& options) {
  if (names_container(options.guest)) return checkpoint_tree(global, options);
  const auto name = vm_name(options.guest);
  if (!name) return fail(global, name.error());
  const auto body = request_of(options);
  if (!body) return fail(global, body.error());
  const auto socket = guest_socket(*name);
  if (!socket) return fail(global, socket.error());
  const auto signals = SignalFd::open({SIGINT, SIGTERM});
  if (!signals) return fail(global, signals.error());
  if (!options.every.empty()) return series(global, options, *socket, *body, *signals);
  if (options.file == "-") return to_stream(global, *socket, *body, *signals);
  return to_file(global, options, *socket, *body, *signals);
}

}  // namespace

void add_checkpoint(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto options = std::make_shared<CheckpointCommand>();
  CLI::App* command = app.add_subcommand("checkpoint", "Write a guest of this host to an image");
  command
      ->add_option("GUEST", options->guest,
                   "vm:NAME, as in `migrate ps`; or pid:PID or container:NAME, a process "
                   "tree")
      ->required()
      ->type_name("");
  CLI::Option* file =
      command->add_option("FILE", options->file, "The image; - for standard output")->type_name("");
  CLI::Option* to = command->add_option("--to", options->file, "The same as FILE")
                        ->type_name("FILE")
                        ->excludes(file);
  CLI::Option* live = command->add_flag(
      "--live", options->live,
      "Let the guest run on while its memory is written as it was at one instant");
  CLI::Option* base =
      command
          ->add_option("--base", options->base,
                       "An earlier image of this guest: write only what is not in there")
          ->type_name("FILE");
  command
      ->add_option("--parent", options->parents,
                   "Where an image is that the base is based on, if not where it says; any number")
      ->type_name("FILE")
      ->needs(base);
  CLI::Option* keep = command->add_flag(
      "--keep-tracking", options->keep_tracking,
      "Track the guest's writes from here on, so that the next one with this --base need not read "
      "all of its memory");
  CLI::Option* stop =
      command->add_flag("--stop", options->stop, "End the guest once its image is there")
          ->excludes(live)
          ->excludes(keep);
  command->add_option("--compress", options->compress, "auto, none or zstd[:LEVEL] (default: auto)")
      ->type_name("HOW");
  command->add_option("--lanes", options->lanes, "Threads (default: one a processor)")
      ->check(CLI::Range(0u, kImageLanesMax))
      ->type_name("N");
  add_container_source_options(*command, options->container);
  CLI::Option* every =
      command
          ->add_option("--every", options->every,
                       "Checkpoint after checkpoint, live, each based on the former: FILE is the "
                       "latest at any time. The guest's output is not held back until it is safe")
          ->type_name("TIME")
          ->excludes(base)
          ->excludes(keep)
          ->excludes(stop);
  command->add_option("--count", options->count, "End after so many (default: at Ctrl-C)")
      ->type_name("N")
      ->needs(every);
  command->callback([&global, &chosen, options, file, to, every] {
    if (file->empty() && to->empty()) throw CLI::RequiredError("FILE");
    if (!every->empty() && options->file == "-") {
      throw CLI::ValidationError("--every", "a series needs a file, not a stream");
    }
    chosen = [&global, options] { return checkpoint(global, *options); };
  });
}

}  // namespace migrate::tool
