// migrate run: starts a guest and hosts it until it stops or leaves.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>

#include "announce_options.hpp"
#include "base/huge_pages.hpp"
#include "command.hpp"
#include "cpu_baseline_file.hpp"
#include "detach.hpp"
#include "hosting.hpp"
#include "huge_pages_option.hpp"
#include "machine_options.hpp"
#include "migrate/options.hpp"
#include "tracker_option.hpp"
#include "vmm_guest.hpp"

namespace migrate::tool {
namespace {

struct RunOptions {
  std::string name;
  std::string memory = "256M";
  std::uint32_t vcpus = 1;
  std::string workload = "idle";
  std::string tracker = "auto";
  std::string huge_pages;
  std::string cpu;
  MachineOptions machine;
  std::string append = "console=ttyS0";
  bool detach = false;
};

/// Where nothing is said, what runs in somebody's terminal shows its console there.
vmm::LinuxGuest linux_guest(const RunOptions& options, MachineChoice machine, bool in_terminal) {
  if (options.machine.console.empty() && in_terminal) machine.console = vmm::ConsoleConfig();
  vmm::LinuxGuest guest;
  guest.kernel = std::move(machine.kernel);
  guest.initrd = std::move(machine.initrd);
  guest.command_line = options.append;
  guest.disks = std::move(machine.disks);
  guest.console = std::move(machine.console);
  return guest;
}

Result<vmm::VmmConfig> vmm_config(const RunOptions& options, MachineChoice machine,
                                  bool in_terminal) {
  MIGRATE_TRY(check_guest_name(options.name));
  vmm::VmmConfig config;
  config.name = options.name;
  MIGRATE_ASSIGN(config.memory_bytes, parse_size(options.memory));
  config.vcpus = options.vcpus;
  MIGRATE_ASSIGN(config.workload, vmm::parse_workload(options.workload));
  MIGRATE_ASSIGN(config.tracking, parse_tracker(options.tracker));
  MIGRATE_TRY(check_tracker(config.tracking));
  if (!options.cpu.empty()) {
    MIGRATE_ASSIGN(config.cpu, read_cpu_baseline(options.cpu));
  }
  MIGRATE_ASSIGN(config.huge_page_bytes, parse_huge_pages(options.huge_pages));
  config.nets = cards_of(machine.nets);
  if (!options.machine.kernel.empty()) {
    config.linux_guest = linux_guest(options, std::move(machine), in_terminal);
  }
  if (config.huge_page_bytes != 0) {
    // Now, and not only when they are mapped: nothing has been begun yet.
    MIGRATE_TRY(check_huge_pages(config.memory_bytes, config.huge_page_bytes,
                                 read_huge_page_pool(config.huge_page_bytes)));
  }
  return config;
}

Json start_json(const std::string& name, const std::filesystem::path& socket) {
  return {{"name", name}, {"pid", getpid()}, {"socket", socket.string()}};
}

/// Says how it ended, and gives the exit code.
int tell_end(const GlobalOptions& global, const std::string& name, const HostEnd& end) {
  Json json = {{"name", name}, {"error", nullptr}};
  std::string text = name;
  switch (end.kind) {
    case HostEnd::Kind::kStopped:
      json["outcome"] = "stopped";
      text += " has stopped";
      break;
    case HostEnd::Kind::kLeft:
      json["outcome"] = "left";
      json["target"] = end.target;
      text += " runs at " + end.target + " now";
      break;
    case HostEnd::Kind::kCrashed: {
      Error error = end.error.value_or(make_error(ErrorCode::kGuestLost, "the guest crashed"));
      error.code = ErrorCode::kGuestLost;
      return fail(global, error);
    }
  }
  if (global.json) {
    print_json(json);
  } else {
    std::printf("%s\n", text.c_str());
  }
  return to_int(ExitCode::kDone);
}

struct Running {
  std::unique_ptr<VmmGuest> guest;
  std::unique_ptr<Hosting> hosting;
};

/// A guest with its memory filled, running, with its control socket open.
Result<Running> start(const vmm::VmmConfig& config, const AnnounceChoice& announce,
                      const RuntimeDir& folder) {
  Running running;
  MIGRATE_ASSIGN(NameLock name, folder.take_name(config.name));
  MIGRATE_ASSIGN(auto vmm, vmm::Vmm::create(config));
  // Its cards have their MAC addresses now; announced only where it stays here after all.
  auto cards = announced_cards(vmm->config().nets, announce);
  running.guest = std::make_unique<VmmGuest>(std::shared_ptr<vmm::Vmm>(std::move(vmm)));
  MIGRATE_TRY(running.guest->resume());
  MIGRATE_ASSIGN(running.hosting, Hosting::create(*running.guest, std::move(name), folder, false));
  running.hosting->host().set_network({std::move(cards), {}, nullptr});
  MIGRATE_TRY(running.hosting->open());
  return running;
}

int run(const GlobalOptions& global, const RunOptions& options) {
  auto machine = parse_machine(options.machine);
  if (!machine) return fail(global, machine.error());
  AnnounceChoice announce;
  announce.by_card = announced_by_card(machine->nets);
  if (const Status there = check_announce(announce); !there) return fail(global, there.error());
  const auto config = vmm_config(options, *std::move(machine), !global.json && !options.detach);
  if (!config) return fail(global, config.error());
  const auto folder = RuntimeDir::open();
  if (!folder) return fail(global, folder.error());
  std::optional<Detacher> detacher;
  if (options.detach) {
    auto made = Detacher::start();
    if (!made) return fail(global, made.error());
    detacher = *std::move(made);
  }
  const auto signals = SignalFd::open({SIGINT, SIGTERM, SIGHUP});
  if (!signals) return fail(global, signals.error());
  auto running = start(*config, announce, *folder);
  if (!running) return fail(global, running.error());

  const std::filesystem::path socket = folder->socket_path(options.name);
  if (!global.json) {
    std::printf("%s runs (pid %d, %s)\n", options.name.c_str(), getpid(), socket.c_str());
    std::fflush(stdout);
  } else if (detacher) {
    print_json(start_json(options.name, socket));
  }
  const std::filesystem::path log = folder->log_path(options.name);
  if (detacher) {
    if (const Status ready = detacher->ready(log); !ready) return fail(global, ready.error());
  }
  const HostEnd end = running->hosting->serve(*signals);
  GlobalOptions telling = global;
  // A detached process has only its log, and that is text.
  if (detacher) telling.json = false;
  const int code = tell_end(telling, options.name, end);
  if (detacher && code == 0) drop_log(log);
  return code;
}

}  // namespace

void add_run(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command =
      app.add_subcommand("run", "Start a guest and host it until it stops or leaves");
  command->add_option("NAME", options->name, "What to call it on this host")
      ->required()
      ->type_name("");
  command->add_option("--memory", options->memory, "Guest memory (default: 256M)")
      ->type_name("SIZE");
  command->add_option("--vcpus", options->vcpus, "vCPUs (default: 1)")->type_name("N");
  CLI::Option* workload =
      command
          ->add_option(
              "--guest", options->workload,
              "What the demo guest does: NAME[:key=value,...], joined with + for each vCPU "
              "(default: idle)")
          ->type_name("WORKLOAD");
  CLI::Option* kernel = command
                            ->add_option("--kernel", options->machine.kernel,
                                         "Instead of the demo guest: a Linux, from this bzImage")
                            ->type_name("FILE")
                            ->excludes(workload);
  command->add_option("--initrd", options->machine.initrd, "Its initial file system")
      ->type_name("FILE")
      ->needs(kernel);
  command->add_option("--append", options->append, "Its command line (default: console=ttyS0)")
      ->type_name("WORDS")
      ->needs(kernel);
  add_machine_options(*command, options->machine, kernel);
  command
      ->add_option("--tracker", options->tracker,
                   "How its writes are tracked when it leaves this host (default: auto)")
      ->type_name(tracker_names());
  add_huge_pages_option(*command, options->huge_pages);
  command
      ->add_option("--cpu", options->cpu,
                   "The processor it is given: a baseline made by doctor --cpu-baseline (default: "
                   "all that this host offers)")
      ->type_name("FILE");
  command->add_flag("--detach", options->detach, "Go to the background once the guest answers");
  command->callback([&global, &chosen, options] {
    chosen = [&global, options] { return run(global, *options); };
  });
}

}  // namespace migrate::tool
