#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>

#include "adapters/containers/network/arriving_network.hpp"
#include "adapters/containers/target/output_pipes.hpp"
#include "adapters/containers/target/restore_run.hpp"
#include "adapters/containers/target/staged_memory.hpp"
#include "adapters/containers/target/target_checks.hpp"
#include "adapters/containers/target/target_mounts.hpp"
#include "base/guarded.hpp"
#include "base/log.hpp"
#include "migrate/containers.hpp"

namespace migrate::containers {
namespace {

using Clock = std::chrono::steady_clock;

/// Of a cgroup's freezer and kill: the end of a system call of each process.
constexpr std::chrono::seconds kGroupTime{10};
constexpr std::chrono::seconds kAskTime{30};

class Target final : public ContainerTarget, private PacketSink {
 public:
  Target(ContainerTargetOptions options, std::unique_ptr<StagedMemory> staging)
      : options_(std::move(options)), staging_(std::move(staging)) {}
  ~Target() override;

  Status prepare(const GuestDescription& description) override {
    return guarded([&] { return prepare_here(description); });
  }
  PageSink& pages() override { return *staging_; }
  Status load_state(StateReader& reader) override {
    return guarded([&] { return load(reader); });
  }
  Result<std::chrono::nanoseconds> rehearse_load() override {
    return make_error(ErrorCode::kUnsupported, "restoring a process tree cannot be rehearsed");
  }
  Status acquire() override { return {}; }
  /// What is half restored holds addresses and process numbers.
  Status yield() override { return run_.reset(), Status(); }
  Status start(RunState state) override;
  void discard() override;
  std::vector<FaultSource> fault_sources() override { return {}; }
  [[nodiscard]] std::vector<int> vcpu_threads() override { return {}; }
  PacketSink* packet_sink() override { return options_.link.empty() ? nullptr : this; }
  void source_stands() override {}
  bool deliver(const GuestFrame& frame) override {
    return network_ != nullptr && network_->deliver(frame);
  }

  [[nodiscard]] pid_t root_pid() const override { return root_; }
  [[nodiscard]] int ended_fd() const override { return ended_.get(); }
  void memory_complete() override;
  [[nodiscard]] bool has_all_memory() const override;
  Status kill() override {
    return guarded([&] { return kill_tree(); });
  }
  Status freeze(bool frozen) override {
    return guarded([&] { return freeze_tree(frozen); });
  }
  [[nodiscard]] std::vector<std::string> externals_to_leave() const override {
    return words_to_leave(tree_.mounts, options_.externals);
  }

 private:
  void open_network();
  Status prepare_here(const GuestDescription& description);
  Status load(StateReader& reader);
  Status kill_tree();
  Status freeze_tree(bool frozen);
  Status make_run();
  void read_outputs(std::vector<Fd> pipes);
  void reap() noexcept;

  const ContainerTargetOptions options_;
  std::string name_;
  TreeDescription tree_;
  std::unique_ptr<StagedMemory> staging_;
  std::unique_ptr<ArrivingNetwork> network_;  ///< Empty: the link is put up, and nothing kept.
  std::unique_ptr<TreeCgroup> group_;
  std::unique_ptr<RestoreRun> run_;  // Uses all of the above.
  std::unique_ptr<LazyFill> fill_;   // Of the tree that runs.
  Fd output_file_;
  std::unique_ptr<OutputReader> outputs_;
  std::atomic<bool> complete_{false};
  std::atomic<bool> killed_{false};
  pid_t root_ = 0;
  Fd ended_;
};

Target::~Target() {
  if (fill_ == nullptr) {
    discard();
    return;
  }
  // The filler goes on by itself, or kills the tree where memory will never be complete.
  fill_.reset();
  reap();
  const auto left = group_->processes();
  if (!left || !left->empty()) group_->keep();
}

Status Target::prepare_here(const GuestDescription& description) {
  if (description.kind != GuestKind::kContainer) {
    return make_error(ErrorCode::kIncompatible, "the guest is a virtual machine")
        .advise("receive it with the program that runs virtual machines here");
  }
  MIGRATE_ASSIGN(tree_, parse_tree(description));
  name_ = options_.cgroup.empty() ? description.name : options_.cgroup;
  MIGRATE_ASSIGN(group_, TreeCgroup::create(name_));
  // Which CRIU is here is one of the things to check; without any there is nothing to say of
  // others.
  CriuLaunch launch;
  launch.program.path = options_.criu.path;
  MIGRATE_ASSIGN(const auto worker, CriuWorker::launch(launch));
  MIGRATE_ASSIGN(const CriuVersion version, worker->version(Clock::now() + kAskTime));
  MIGRATE_TRY(check_tree_fits(tree_, options_, {version, machine_name()}));
  MIGRATE_ASSIGN(output_file_, open_output(options_.output));
  MIGRATE_TRY(staging_->update_regions({description.regions, {}}));
  open_network();
  return make_run();
}

/// From now on nothing gets to the tree's network or out of it.
void Target::open_network() {
  if (options_.link.empty()) return;
  auto network = ArrivingNetwork::open(options_.link, options_.network);
  if (network) {
    network_ = *std::move(network);
    return;
  }
  log_line(LogLevel::kWarning,
           "what the tree's connections send while they are restored is lost: " +
               network.error().to_text());
}

Status Target::make_run() {
  run_.reset();
  if (group_ == nullptr) {
    MIGRATE_ASSIGN(group_, TreeCgroup::create(name_));
  }
  MIGRATE_ASSIGN(run_, RestoreRun::prepare(options_, *group_, network_.get()));
  return {};
}

Status Target::load(StateReader& reader) {
  // After an attempt that failed: a CRIU restores once.
  if (run_ == nullptr || run_->loaded()) MIGRATE_TRY(make_run());
  Status loaded = guarded([&] { return run_->load(reader, *staging_, tree_); });
  if (!loaded) run_.reset();
  return loaded;
}

Status Target::start(RunState state) {
  if (run_ == nullptr || !run_->loaded()) {
    return make_error(ErrorCode::kInternal, "the tree has not been restored");
  }
  Status started = run_->start(state, complete_);
  if (!started) {
    run_.reset();
    group_.reset();  // Which may be frozen.
    return started;
  }
  root_ = run_->root();
  ended_.reset(static_cast<int>(::syscall(SYS_pidfd_open, root_, 0)));
  fill_ = run_->take_fill();
  read_outputs(run_->take_outputs());
  run_.reset();
  if (ended_) return {};
  Error lost =
      make_errno_error(ErrorCode::kGuestLost, errno, "the tree's first process cannot be watched");
  // Nobody here would know of it, and its source may be told to run it again.
  if (const Status killed = kill(); !killed) log_line(LogLevel::kError, killed.error().to_text());
  return lost;
}

/// It runs whether that can be done or not.
void Target::read_outputs(std::vector<Fd> pipes) {
  if (pipes.empty()) return;
  auto reader = OutputReader::begin(std::move(pipes), std::move(output_file_));
  if (reader) {
    outputs_ = *std::move(reader);
  } else {
    log_line(LogLevel::kError, reader.error().to_text());
  }
}

void Target::discard() {
  run_.reset();
  if (group_ != nullptr) {
    if (const Status killed = group_->kill(Clock::now() + kGroupTime); !killed) {
      log_line(LogLevel::kError, killed.error().to_text());
    }
  }
  group_.reset();
  network_.reset();
  // Mapped still: the engine may have it registered to the end.
  staging_->drop_content();
}

void Target::memory_complete() {
  complete_ = true;
  if (fill_ == nullptr) return;
  if (const Status told = fill_->memory_complete(); !told) {
    log_line(LogLevel::kError, told.error().to_text());
  }
}

bool Target::has_all_memory() const {
  return killed_ || (fill_ != nullptr && (fill_->filled() || fill_->lost()));
}

Status Target::kill_tree() {
  if (group_ == nullptr) return {};
  MIGRATE_TRY(group_->kill(Clock::now() + kGroupTime));
  killed_ = true;
  reap();
  return {};
}

/// CRIU makes the tree's first process a child of this one.
void Target::reap() noexcept {
  if (!ended_) return;
  siginfo_t info{};
  ::waitid(P_PIDFD, static_cast<id_t>(ended_.get()), &info, WEXITED | WNOHANG);
}

Status Target::freeze_tree(bool frozen) {
  if (group_ == nullptr) return make_error(ErrorCode::kNotFound, "there is no tree");
  return group_->freeze(frozen, Clock::now() + kGroupTime);
}

}  // namespace
}  // namespace migrate::containers

namespace migrate {

Result<std::unique_ptr<ContainerTarget>> make_container_target(
    const ContainerTargetOptions& options) {
  using namespace containers;
  if (::geteuid() != 0) {
    return make_error(ErrorCode::kPermission, "only root can restore a process tree")
        .advise("run as root");
  }
  CriuLaunch launch;
  launch.program.path = options.criu.path;
  MIGRATE_ASSIGN(const auto worker, CriuWorker::launch(launch));
  const Deadline deadline = Clock::now() + kAskTime;
  MIGRATE_ASSIGN(const CriuVersion version, worker->version(deadline));
  MIGRATE_TRY(check_criu_version(version));
  MIGRATE_ASSIGN(const CriuFeatures features, worker->features(deadline));
  if (!features.lazy_pages) {
    return make_error(ErrorCode::kUnsupported, "CRIU cannot fill memory lazily on this kernel")
        .advise("use Linux 5.14 or newer with CONFIG_USERFAULTFD");
  }
  MIGRATE_ASSIGN(auto staging, StagedMemory::create());
  return std::unique_ptr<ContainerTarget>(std::make_unique<Target>(options, std::move(staging)));
}

}  // namespace migrate
