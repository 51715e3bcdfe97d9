#include "container_options.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "arrival_by_kind.hpp"
#include "container_arrival.hpp"
#include "vm_arrival.hpp"

namespace migrate::tool {
namespace {

namespace fs = std::filesystem;

constexpr const char* kShimFile = "libmigrate-criu-shim.so";

/// Where `make install` and the build put it; empty where it is at neither.
std::string installed_shim() {
  std::error_code none;
  const fs::path program = fs::read_symlink("/proc/self/exe", none);
  if (none) return {};
  for (const char* folder : {".", "../lib", "../lib/x86_64-linux-gnu", "../lib64"}) {
    const fs::path path = program.parent_path() / folder / kShimFile;
    if (fs::exists(path, none)) return fs::weakly_canonical(path, none).string();
  }
  return {};
}

Result<ContainerTcp> parse_tcp(const std::string& text) {
  if (text == "established") return ContainerTcp::kEstablished;
  if (text == "close") return ContainerTcp::kClose;
  return make_error(ErrorCode::kInvalidArgument, "--tcp: '" + text + "' is not known")
      .advise("accepted: established, close");
}

// Those of virtual machines (tracker_option.cc) by the same names, as far as there are such.
constexpr std::array<std::pair<std::string_view, TrackerKind>, 3> kTrackers = {{
    {"write-protect", TrackerKind::kProcessWriteProtect},
    {"soft-dirty", TrackerKind::kSoftDirty},
    {"hash", TrackerKind::kContentHash},
}};

Result<TrackerKind> parse_container_tracker(const std::string& text) {
  if (text == "auto") return best_container_tracker();
  const auto* const found = std::find_if(kTrackers.begin(), kTrackers.end(),
                                         [&](const auto& one) { return one.first == text; });
  if (found == kTrackers.end()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "--tracker: there is no tracker '" + text + "' for process trees")
        .advise("accepted: auto, write-protect, soft-dirty, hash");
  }
  for (const TrackerOffer& offer : probe_trackers(-1)) {
    if (offer.kind != found->second || offer.available) continue;
    return make_error(ErrorCode::kUnsupported,
                      "--tracker " + text + " is not possible on this host: " + offer.detail)
        .advise(offer.remedy.empty() ? "leave it out" : offer.remedy + ", or leave it out");
  }
  return found->second;
}

Result<CriuProgram> criu_program(const ContainerChoice& choice) {
  CriuProgram program;
  program.path = choice.criu;
  if (choice.no_shim) return program;
  program.shim = choice.shim.empty() ? installed_shim() : choice.shim;
  std::error_code none;
  if (!choice.shim.empty() && !fs::exists(choice.shim, none)) {
    return make_error(ErrorCode::kInvalidArgument, "--criu-shim: there is no " + choice.shim)
        .advise("leave it out for the one that was installed, or give --no-criu-shim");
  }
  return program;
}

/// Images are read and written while nobody runs: not on a disk.
Result<std::string> images_folder(const RuntimeDir& folder) {
  const fs::path path = folder.path() / "containers";
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot make " + path.string())
        .advise("give another folder with MIGRATE_RUNTIME_DIR");
  }
  return path.string();
}

void add_common(CLI::App& command, ContainerChoice& choice) {
  command
      .add_option("--criu", choice.criu,
                  "Containers: the CRIU program, 4.1 or newer (default: criu, of the PATH)")
      ->type_name("FILE");
  CLI::Option* shim =
      command
          .add_option("--criu-shim", choice.shim,
                      "Containers: the library that keeps CRIU from copying memory that is here "
                      "already (default: the one installed)")
          ->type_name("FILE");
  command
      .add_flag("--no-criu-shim", choice.no_shim,
                "Containers: let CRIU read all memory, within the downtime")
      ->excludes(shim);
  command
      .add_option("--tcp", choice.tcp,
                  "Containers: what becomes of TCP connections (default: established)")
      ->type_name("established|close");
  command
      .add_option("--container-link", choice.link,
                  "Containers: this host's network interface to them, which is switched off where "
                  "they leave and on where they arrive")
      ->type_name("IF");
  command
      .add_option("--container-external", choice.externals,
                  "Containers: what is not theirs and waits at the target, as CRIU's --external "
                  "(mnt[/etc/resolv.conf]:resolv)")
      ->type_name("WHAT");
}

}  // namespace

void add_container_source_options(CLI::App& command, ContainerChoice& choice) {
  add_common(command, choice);
}

void add_container_tracker_option(CLI::App& command, ContainerChoice& choice) {
  command
      .add_option("--tracker", choice.tracker,
                  "Containers: how their writes are tracked (default: auto, the best there is)")
      ->type_name("auto|write-protect|soft-dirty|hash");
}

TrackerKind best_container_tracker() {
  return best_tracker(GuestKind::kContainer, false, probe_trackers(-1));
}

void add_container_target_options(CLI::App& command, ContainerChoice& choice) {
  add_common(command, choice);
  command
      .add_option("--container-root", choice.root,
                  "Containers: the folder that is their root file system here")
      ->type_name("DIR");
  command
      .add_option("--container-network", choice.network,
                  "Containers: the network namespace they live in here (/run/netns/NAME)")
      ->type_name("FILE");
  command
      .add_option("--container-output", choice.output,
                  "Containers: the file that what they write to pipes is appended to, which "
                  "others read where they came from (default: it is thrown away)")
      ->type_name("FILE");
}

std::vector<std::string> container_arguments(const ContainerChoice& choice) {
  std::vector<std::string> words;
  const auto add = [&words](const char* name, const std::string& value) {
    if (value.empty()) return;
    words.push_back(name);
    words.push_back(value);
  };
  const auto path = [](const std::string& text) {
    return text.empty() ? text : fs::absolute(text).string();
  };
  // A name without a slash is looked for in the PATH.
  add("--criu", choice.criu.find('/') == std::string::npos ? choice.criu : path(choice.criu));
  add("--criu-shim", path(choice.shim));
  if (choice.no_shim) words.push_back("--no-criu-shim");
  add("--tcp", choice.tcp);
  add("--container-link", choice.link);
  for (const std::string& external : choice.externals) add("--container-external", external);
  add("--container-root", path(choice.root));
  add("--container-network", path(choice.network));
  add("--container-output", path(choice.output));
  return words;
}

Result<ContainerSourceOptions> container_source_options(const ContainerChoice& choice,
                                                        const RuntimeDir& folder) {
  ContainerSourceOptions options;
  MIGRATE_ASSIGN(options.criu, criu_program(choice));
  MIGRATE_ASSIGN(options.tcp, parse_tcp(choice.tcp));
  options.externals = choice.externals;
  options.link = choice.link;
  MIGRATE_ASSIGN(options.tracker, parse_container_tracker(choice.tracker));
  MIGRATE_ASSIGN(options.folder, images_folder(folder));
  return options;
}

Status parse_accept(const std::string& text, AcceptChoice& choice) {
  choice.vm = choice.container = false;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string kind = text.substr(begin, end - begin);
    if (kind == to_string(GuestKind::kVm)) {
      choice.vm = true;
    } else if (kind == to_string(GuestKind::kContainer)) {
      choice.container = true;
    } else {
      return make_error(ErrorCode::kInvalidArgument,
                        "--accept: cannot take guests of kind '" + kind + "'")
          .advise("accepted: vm, container, vm,container");
    }
    begin = end + 1;
  }
  return {};
}

std::string to_text(const AcceptChoice& choice) {
  if (choice.vm && choice.container) return "vm,container";
  return std::string(to_string(choice.vm ? GuestKind::kVm : GuestKind::kContainer));
}

Result<std::unique_ptr<Arrival>> make_arrival(const AcceptChoice& choice,
                                              const vmm::ArrivalConfig& vm,
                                              const RuntimeDir& folder) {
  std::unique_ptr<Arrival> of_vm;
  std::unique_ptr<Arrival> of_container;
  if (choice.vm) {
    MIGRATE_ASSIGN(of_vm, VmArrival::create(vm));
  }
  if (choice.container) {
    ContainerTargetOptions options;
    MIGRATE_ASSIGN(options.criu, criu_program(choice.containers));
    MIGRATE_ASSIGN(options.tcp, parse_tcp(choice.containers.tcp));
    options.root = choice.containers.root;
    options.externals = choice.containers.externals;
    options.network = choice.containers.network;
    options.output = choice.containers.output;
    options.link = choice.containers.link;
    options.cgroup = vm.name;
    MIGRATE_ASSIGN(options.folder, images_folder(folder));
    MIGRATE_ASSIGN(of_container, ContainerArrival::create(options));
  }
  return std::unique_ptr<Arrival>(
      std::make_unique<ArrivalByKind>(std::move(of_vm), std::move(of_container)));
}

}  // namespace migrate::tool
