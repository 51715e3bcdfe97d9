#include "container_guest.hpp"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <fstream>

#include "base/log.hpp"
#include "forwarding_source.hpp"

namespace migrate::tool {
namespace {

// The target hears nothing meanwhile, and gives a silent source up after 30 s.
constexpr std::chrono::seconds kSyncMax{20};

Error not_here() {
  return make_error(ErrorCode::kBusy, "the guest has not arrived yet")
      .advise("try again when it has (`migrate status`)");
}

Result<Fd> open_process(pid_t pid) {
  Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (process) return process;
  return make_errno_error(ErrorCode::kNotFound, errno, "process " + std::to_string(pid))
      .advise("give the tree's first process, as `ps` here numbers it");
}

/// A field of /proc/PID/status, such as "VmRSS:"; 0 where it cannot be read.
std::uint64_t status_kib(pid_t pid, const std::string& field) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  std::string word;
  while (status >> word) {
    std::uint64_t value = 0;
    if (word == field && status >> value) return value;
  }
  return 0;
}

/// A source that tells its guest when it has left.
class LeavingSource final : public ForwardingSource {
 public:
  LeavingSource(std::unique_ptr<SourceGuest> source, std::shared_ptr<std::atomic<bool>> left)
      : ForwardingSource(std::move(source)), left_(std::move(left)) {}

  Status release() override {
    // First: the end of its processes must not look like the guest's own.
    left_->store(true);
    return inner_->release();
  }

 private:
  const std::shared_ptr<std::atomic<bool>> left_;
};

}  // namespace

Result<std::unique_ptr<ContainerGuest>> ContainerGuest::create(
    const ContainerSourceOptions& options, std::vector<SyncedFolder> folders) {
  GuestFacts facts;
  facts.name = options.name;
  facts.workload = "process tree";
  facts.memory_bytes = status_kib(options.root, "VmRSS:") * 1024;
  auto guest = std::make_unique<ContainerGuest>(std::move(facts), options);
  MIGRATE_ASSIGN(Fd process, open_process(options.root));
  MutexLock lock(guest->mutex_);
  guest->process_ = std::move(process);
  guest->folders_ = std::move(folders);
  return guest;
}

void ContainerGuest::set_tree(ContainerTarget& tree) {
  MutexLock lock(mutex_);
  tree_ = &tree;
  options_.root = tree.root_pid();
  options_.externals = tree.externals_to_leave();
  auto process = open_process(options_.root);
  // A tree that has ended at once is ended: its own descriptor says so.
  if (process) process_ = *std::move(process);
}

bool ContainerGuest::has_ended() const {
  pollfd ended{tree_ != nullptr ? tree_->ended_fd() : process_.get(), POLLIN, 0};
  return ended.fd >= 0 && ::poll(&ended, 1, 0) > 0;
}

GuestState ContainerGuest::state() const {
  if (left_->load()) return GuestState::kLeft;
  MutexLock lock(mutex_);
  if (has_ended()) return GuestState::kStopped;
  if (tree_ == nullptr && !process_) return GuestState::kPaused;
  return frozen_ ? GuestState::kPaused : GuestState::kRunning;
}

int ContainerGuest::ended_fd() const {
  MutexLock lock(mutex_);
  return tree_ != nullptr ? tree_->ended_fd() : process_.get();
}

Status ContainerGuest::freeze(bool frozen) {
  if (tree_ == nullptr) {
    if (!process_) return not_here();
    return make_error(ErrorCode::kUnsupported,
                      "this tree is another program's: it is only sent from here")
        .advise("pause it by what runs it");
  }
  if (frozen == frozen_) return {};
  MIGRATE_TRY(tree_->freeze(frozen));
  frozen_ = frozen;
  return {};
}

Status ContainerGuest::pause() {
  MutexLock lock(mutex_);
  return freeze(true);
}

Status ContainerGuest::resume() {
  MutexLock lock(mutex_);
  return freeze(false);
}

void ContainerGuest::stop() {
  MutexLock lock(mutex_);
  if (tree_ == nullptr) return;
  if (const Status killed = tree_->kill(); !killed) {
    log_line(LogLevel::kError, killed.error().to_text());
  }
}

Result<Json> ContainerGuest::stats() const {
  MutexLock lock(mutex_);
  if (options_.root == 0) return not_here();
  return Json{{"pid", options_.root},
              {"memory_kib", status_kib(options_.root, "VmRSS:")},
              {"memory_filled", tree_ == nullptr || tree_->has_all_memory()}};
}

Result<ConsoleView> ContainerGuest::console() const {
  return make_error(ErrorCode::kUnsupported, "a process tree has no console of its own here")
      .advise("look at what it writes where it writes it");
}

Result<std::unique_ptr<SourceGuest>> ContainerGuest::make_source() {
  MutexLock lock(mutex_);
  if (options_.root == 0) return not_here();
  if (tree_ != nullptr && !tree_->has_all_memory()) {
    return make_error(ErrorCode::kBusy, "the tree's memory is not all in place yet")
        .advise("try again in a moment; `migrate stats` tells");
  }
  MIGRATE_ASSIGN(auto source, make_container_source(options_));
  if (!folders_.empty()) source = make_synced_source(std::move(source), folders_, kSyncMax);
  return std::unique_ptr<SourceGuest>(std::make_unique<LeavingSource>(std::move(source), left_));
}

}  // namespace migrate::tool
