#include "adapters/containers/target/restore_run.hpp"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "adapters/containers/link_state.hpp"
#include "adapters/containers/target/output_pipes.hpp"
#include "adapters/containers/target/target_checks.hpp"
#include "adapters/containers/target/target_mounts.hpp"
#include "base/guarded.hpp"
#include "base/log.hpp"

namespace migrate::containers {
namespace {

using Clock = std::chrono::steady_clock;

/// CRIU on a busy host; a second is much.
constexpr std::chrono::seconds kAskTime{30};
/// A restore takes 8 to 12 ms, and more with many processes; what is stuck is given up before the
/// source gives the target up.
constexpr std::chrono::seconds kRestoreTime{60};
/// Killing is the end of a system call away.
constexpr std::chrono::seconds kKillTime{10};
/// The number under which CRIU finds the network namespace.
constexpr int kNetworkNumber = 100;
/// From there on, those of pipes for what the tree writes.
constexpr int kFirstOutput = 101;

int write_text(const std::string& path, const std::string& text) {
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return errno;
  return ::write(fd.get(), text.data(), text.size()) < 0 ? errno : 0;
}

std::string parent_of(const std::string& path) { return path.substr(0, path.rfind('/')); }

}  // namespace

Result<std::unique_ptr<RestoreRun>> RestoreRun::prepare(const ContainerTargetOptions& options,
                                                        TreeCgroup& group,
                                                        ArrivingNetwork* network) {
  std::unique_ptr<RestoreRun> run(new RestoreRun(options, group, network));
  MIGRATE_ASSIGN(run->images_, RestoreFolder::create(options.folder));
  MIGRATE_ASSIGN(run->fill_, LazyFill::launch());
  MIGRATE_TRY(run->launch());
  return run;
}

Status RestoreRun::launch() {
  CriuLaunch launch;
  launch.program.path = options_.criu.path;  // Hiding memory is the source's affair.
  launch.cgroup_procs = {group_.procs_file()};
  if (!options_.network.empty()) {
    network_.reset(::open(options_.network.c_str(), O_RDONLY | O_CLOEXEC));
    if (!network_) {
      return make_errno_error(ErrorCode::kIncompatible, errno,
                              "there is no network namespace " + options_.network)
          .advise("ip netns add NAME");
    }
    launch.descriptors.emplace_back(network_.get(), kNetworkNumber);
  }
  MIGRATE_ASSIGN(OutputPipes outputs, make_output_pipes());
  outputs_ = std::move(outputs.read_ends);
  for (std::size_t i = 0; i < outputs.write_ends.size(); ++i) {
    launch.descriptors.emplace_back(outputs.write_ends[i].get(),
                                    kFirstOutput + static_cast<int>(i));
  }
  MIGRATE_ASSIGN(worker_, CriuWorker::launch(launch));
  const Deadline deadline = Clock::now() + kAskTime;
  MIGRATE_ASSIGN(version_, worker_->version(deadline));
  MIGRATE_TRY(check_criu_version(version_));
  MIGRATE_ASSIGN(const CriuFeatures features, worker_->features(deadline));
  if (features.lazy_pages) return {};
  return make_error(ErrorCode::kUnsupported, "CRIU cannot fill memory lazily on this kernel")
      .advise("use Linux 5.14 or newer with CONFIG_USERFAULTFD");
}

Status RestoreRun::load(StateReader& reader, StagedMemory& staging, const TreeDescription& tree) {
  MIGRATE_ASSIGN(const auto spaces, images_->take(reader));
  MIGRATE_ASSIGN(RestorePlan plan, plan_restore(*images_, spaces, staging));
  if (!tree.pid_namespace) {
    std::vector<pid_t> pids;
    for (const ImageProcess& process : plan.processes) {
      pids.push_back(process.pid);
      pids.insert(pids.end(), process.threads.begin(), process.threads.end());
    }
    if (const auto taken = taken_pids(pids); !taken.empty()) {
      return make_error(ErrorCode::kIncompatible, "process number " + std::to_string(taken[0]) +
                                                      " of the tree has been taken here")
          .advise("run the tree in a pid namespace of its own");
    }
  }
  const Fd kill(::open((group_.path() + "/cgroup.kill").c_str(), O_WRONLY | O_CLOEXEC));
  const Fd events(::open((group_.path() + "/cgroup.events").c_str(), O_RDONLY | O_CLOEXEC));
  if (!kill || !events) {
    return make_errno_error(ErrorCode::kIo, errno,
                            "the tree's cgroup " + group_.path() + " cannot be opened");
  }
  plan.fill.kill_fd = kill.get();
  plan.fill.events_fd = events.get();
  MIGRATE_TRY(fill_->begin(plan.fill, staging, images_->path()));
  MIGRATE_TRY(mount_root());
  if (arriving_ != nullptr) arriving_->begin();
  MIGRATE_TRY(begin(tree));
  MIGRATE_TRY(run_to_hold());
  MIGRATE_TRY(fill_->wait_for_processes(Clock::now() + kAskTime));
  MIGRATE_TRY(fill_->restored());
  loaded_ = true;
  return {};
}

/// CRIU pivots to its root, which must be a mount.
Status RestoreRun::mount_root() {
  root_path_ = options_.root;
  if (root_path_.empty() || is_mount_point(root_path_)) return {};
  const std::string at = images_->path() + "-root";
  if (::mkdir(at.c_str(), 0700) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot make the folder " + at);
  }
  mounted_root_ = at;
  if (::mount(root_path_.c_str(), at.c_str(), nullptr, MS_BIND | MS_REC, nullptr) != 0 ||
      ::mount(nullptr, at.c_str(), nullptr, MS_PRIVATE | MS_REC, nullptr) != 0) {
    return make_errno_error(ErrorCode::kIo, errno,
                            "the tree's root " + root_path_ + " cannot be mounted for CRIU");
  }
  root_path_ = at;
  return {};
}

/// A file system of its own: bound from a folder that is removed afterwards, it could not be
/// restored when the tree leaves again.
Status RestoreRun::mount_empty_folder() {
  const std::string at = images_->path() + "-empty";
  if (::mkdir(at.c_str(), 0700) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot make the folder " + at);
  }
  empty_folder_ = at;
  constexpr unsigned long kFlags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
  if (::mount("tmpfs", at.c_str(), "tmpfs", kFlags, "size=4k,nr_inodes=1,mode=555") == 0) return {};
  return make_errno_error(ErrorCode::kIo, errno,
                          "an empty folder for the tree cannot be mounted on " + at);
}

Status RestoreRun::begin(const TreeDescription& tree) {
  CriuRestore restore;
  restore.images_fd = images_->fd();
  restore.root = root_path_;
  restore.tcp = options_.tcp;
  restore.externals = options_.externals;
  if (!tree.mounts.empty()) {
    MIGRATE_TRY(mount_empty_folder());
    for (std::string& word :
         provided_words(tree.mounts, cgroup_places(), group_.path(), empty_folder_)) {
      restore.externals.push_back(std::move(word));
    }
  }
  if (network_) restore.inherited.emplace_back(kNetworkNumber, std::string(kNetworkKey));
  outputs_.resize(std::min(outputs_.size(), tree.outputs.size()));
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    restore.inherited.emplace_back(kFirstOutput + static_cast<int>(i),
                                   "pipe:[" + std::to_string(tree.outputs[i]) + "]");
  }
  return worker_->begin_restore(restore);
}

Status RestoreRun::run_to_hold() {
  const Deadline deadline = Clock::now() + kRestoreTime;
  for (;;) {
    MIGRATE_ASSIGN(const CriuEvent event, worker_->next(deadline));
    if (event.pid > 0) root_ = event.pid;
    if (event.kind == CriuEvent::Kind::kEnd) {
      return worker_->failure("CRIU did not restore the tree");
    }
    at_hook_ = true;
    if (event.hook == "post-restore") break;
    at_hook_ = false;
    MIGRATE_TRY(worker_->answer(true));
  }
  if (root_ > 0) return {};
  return make_error(ErrorCode::kGuest, "CRIU does not tell the restored tree's first process");
}

/// Who freezes the tree's cgroup does not freeze CRIU. Not done for a tree that runs on: the kernel
/// waits for all processors before it moves a process, 8 ms.
Status RestoreRun::let_worker_out() {
  const std::string home = parent_of(group_.path()) + "/cgroup.procs";
  const int error = write_text(home, std::to_string(worker_->pid()));
  if (error == 0) return {};
  return make_errno_error(ErrorCode::kIo, error, "CRIU cannot be moved out of the tree's cgroup");
}

Status RestoreRun::start(RunState state, bool complete) {
  bool may_run = false;
  Status ran = guarded([&] { return run_to_end(state, complete, may_run); });
  if (ran) {
    started_ = true;
    return {};
  }
  if (!may_run) return ran;
  Error lost = std::move(ran).error();
  lost.code = ErrorCode::kGuestLost;
  lost.message = "the tree may have run here: " + lost.message;
  return lost;
}

Status RestoreRun::run_to_end(RunState state, bool complete, bool& may_run) {
  const Deadline deadline = Clock::now() + kRestoreTime;
  for (;;) {
    at_hook_ = false;
    MIGRATE_TRY(worker_->answer(true));
    MIGRATE_ASSIGN(const CriuEvent event, worker_->next(deadline));
    if (event.pid > 0) root_ = event.pid;
    if (event.kind == CriuEvent::Kind::kEnd) {
      if (event.success && may_run) return {};
      return worker_->failure("CRIU did not start the restored tree");
    }
    at_hook_ = true;
    if (event.hook == "network-unlock" && !options_.link.empty() && arriving_ == nullptr) {
      MIGRATE_TRY(set_link(options_.link, true));
      link_up_ = true;
    }
    if (event.hook == "pre-resume") MIGRATE_TRY(before_resume(state, complete, may_run));
  }
}

/// The last moment at which nothing has run.
Status RestoreRun::before_resume(RunState state, bool complete, bool& may_run) {
  // CRIU tells of the network only where it locked it.
  const bool put_up = !options_.link.empty() && !link_up_ && arriving_ == nullptr;
  if (put_up) MIGRATE_TRY(set_link(options_.link, true));
  if (state == RunState::kPaused) {
    // CRIU holds them all; once it lets go they stand in the freezer.
    MIGRATE_TRY(let_worker_out());
    MIGRATE_TRY(group_.freeze(true, Clock::now() + kKillTime));
  }
  if (complete) MIGRATE_TRY(fill_->memory_complete());
  MIGRATE_TRY(fill_->started());
  // Last: what has left cannot be taken back.
  if (arriving_ != nullptr) MIGRATE_TRY(arriving_->release());
  may_run = true;
  return {};
}

RestoreRun::~RestoreRun() {
  if (!started_) abandon();
  clean_up();
}

/// In order where CRIU still hears, since it takes back what it did to the network and to files; by
/// force then, whatever it did.
void RestoreRun::abandon() {
  if (worker_ != nullptr && at_hook_) {
    at_hook_ = false;
    bool heard = worker_->answer(false).has_value();
    const Deadline deadline = Clock::now() + kKillTime;
    while (heard) {
      const auto event = worker_->next(deadline);
      if (!event || event->kind == CriuEvent::Kind::kEnd) break;
      heard = worker_->answer(false).has_value();
    }
  }
  if (worker_ != nullptr) worker_->kill();
  if (const Status killed = group_.kill(Clock::now() + kKillTime); !killed) {
    log_line(LogLevel::kError, killed.error().to_text());
  }
  worker_.reset();
  // This process's child, and dead; the worker has reaped it where CRIU had told of it.
  if (root_ > 0) (void)::waitpid(root_, nullptr, WNOHANG);
  fill_.reset();
}

void RestoreRun::clean_up() {
  worker_.reset();
  if (!mounted_root_.empty()) {
    ::umount2(mounted_root_.c_str(), MNT_DETACH);
    ::rmdir(mounted_root_.c_str());
    mounted_root_.clear();
  }
  if (!empty_folder_.empty()) {
    ::umount2(empty_folder_.c_str(), MNT_DETACH);
    ::rmdir(empty_folder_.c_str());
    empty_folder_.clear();
  }
  images_.reset();
}

}  // namespace migrate::containers
