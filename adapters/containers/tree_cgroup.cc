#include "adapters/containers/tree_cgroup.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <utility>

#include "adapters/containers/source/process_tree.hpp"
#include "base/log.hpp"

namespace migrate::containers {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// Passes over a tree that forks while it is moved. A child is born in its parent's group, so every
/// pass leaves only those whose parents had not been moved yet.
constexpr int kPassesMax = 100;
/// Of a name made from the guest's; cgroups take up to 255 bytes.
constexpr std::size_t kNameMax = 64;
/// For the kernel to let go of what has just left a group.
constexpr std::chrono::seconds kRemoveTime{5};

std::string content_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// 0, or the errno.
int write_text(const std::string& path, const std::string& text) {
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return errno;
  return ::write(fd.get(), text.data(), text.size()) < 0 ? errno : 0;
}

Error no_hierarchy(const std::string& why) {
  return make_error(ErrorCode::kUnsupported, "no cgroup of version 2 for the tree: " + why)
      .advise(
          "mount the hierarchy where this process can write it (mount -t cgroup2 none "
          "/sys/fs/cgroup/unified), on Linux 5.14 or newer");
}

Error group_error(const std::string& what, const std::string& path, int error) {
  const bool forbidden = error == EACCES || error == EPERM || error == EROFS;
  Error failed = make_errno_error(forbidden ? ErrorCode::kPermission : ErrorCode::kIo, error,
                                  "cannot " + what + " the cgroup " + path);
  if (forbidden) failed.advise("run as root where the cgroup hierarchy may be written");
  return failed;
}

/// Where version 2 is mounted whole, as this process sees it.
Result<std::string> hierarchy() {
  std::istringstream mounts(content_of("/proc/self/mountinfo"));
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream fields(line);
    std::string id;
    std::string parent;
    std::string device;
    std::string root;
    std::string point;
    fields >> id >> parent >> device >> root >> point;
    if (line.find(" - cgroup2 ") != std::string::npos && root == "/") return point;
  }
  return no_hierarchy("it is not mounted");
}

/// The process's group as a folder; empty where the process is gone.
Result<std::string> group_of(const std::string& mount, pid_t pid) {
  std::istringstream groups(content_of("/proc/" + std::to_string(pid) + "/cgroup"));
  for (std::string line; std::getline(groups, line);) {
    if (!line.starts_with("0::")) continue;
    const std::string path = line.substr(3);
    if (path.starts_with("/..")) {
      return no_hierarchy("process " + std::to_string(pid) +
                          " is in a group that this process does not see");
    }
    return path == "/" ? mount : mount + path;
  }
  return std::string();
}

void add_processes(const fs::path& folder, std::vector<pid_t>& all) {
  std::istringstream text(content_of(folder / "cgroup.procs"));
  for (pid_t pid = 0; text >> pid;) {
    if (pid > 0) all.push_back(pid);
  }
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (entry.is_directory(ignored) && !entry.is_symlink(ignored)) add_processes(entry, all);
  }
}

std::vector<pid_t> processes_in(const std::string& folder) {
  std::vector<pid_t> all;
  add_processes(folder, all);
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

std::vector<pid_t> members_of(pid_t root) {
  std::vector<pid_t> pids;
  for (const TreeProcess& process : list_descendants(root)) {
    if (!process.zombie) pids.push_back(process.pid);
  }
  std::sort(pids.begin(), pids.end());
  return pids;
}

/// Removes `folder` with the groups below it, which are empty.
int remove_group(const fs::path& folder) {
  std::error_code ignored;
  std::vector<fs::path> below;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (entry.is_directory(ignored) && !entry.is_symlink(ignored)) below.push_back(entry.path());
  }
  for (const fs::path& one : below) remove_group(one);
  return ::rmdir(folder.c_str()) == 0 || errno == ENOENT ? 0 : errno;
}

class UnifiedGroup final : public TreeCgroup {
 public:
  /// `made`: the group is this object's, to be removed.
  UnifiedGroup(std::string path, std::string home, bool made)
      : path_(std::move(path)), home_(std::move(home)), made_(made) {}
  ~UnifiedGroup() override;
  UnifiedGroup(const UnifiedGroup&) = delete;
  UnifiedGroup& operator=(const UnifiedGroup&) = delete;

  Status open_files();
  /// Moves the tree in.
  Status take_in(const std::string& mount, pid_t root);

  [[nodiscard]] const std::string& path() const override { return path_; }
  [[nodiscard]] std::string procs_file() const override { return path_ + "/cgroup.procs"; }
  Result<std::vector<pid_t>> processes() const override;
  Status freeze(bool frozen, std::chrono::steady_clock::time_point deadline) override;
  Status kill(std::chrono::steady_clock::time_point deadline) override;
  void keep() noexcept override { kept_ = true; }

 private:
  /// Waits until cgroup.events has `line`.
  Result<bool> wait_for(const std::string& line, Clock::time_point deadline) const;
  /// False where some could not be moved.
  bool move_back();

  const std::string path_;
  const std::string home_;  ///< Where processes go back to whose former group is not known.
  const bool made_;
  std::map<pid_t, std::string> former_;
  Fd events_;
  bool frozen_ = false;
  bool killed_ = false;
  bool kept_ = false;
};

Status UnifiedGroup::open_files() {
  for (const char* file : {"cgroup.freeze", "cgroup.kill"}) {
    const std::string name = path_ + "/" + file;
    if (::access(name.c_str(), F_OK) != 0) return no_hierarchy("there is no " + name);
    if (::access(name.c_str(), W_OK) != 0) return group_error("write", path_, errno);
  }
  events_.reset(::open((path_ + "/cgroup.events").c_str(), O_RDONLY | O_CLOEXEC));
  if (!events_) return group_error("watch", path_, errno);
  return {};
}

Status UnifiedGroup::take_in(const std::string& mount, pid_t root) {
  for (int pass = 0; pass < kPassesMax; ++pass) {
    bool moved = false;
    for (const pid_t pid : members_of(root)) {
      MIGRATE_ASSIGN(std::string group, group_of(mount, pid));
      if (group.empty() || group == path_) continue;
      const int error = write_text(procs_file(), std::to_string(pid));
      if (error == ESRCH) continue;
      if (error != 0) {
        return group_error("move process " + std::to_string(pid) + " to", path_, error);
      }
      former_[pid] = std::move(group);
      moved = true;
    }
    if (!moved) return {};
  }
  return make_error(ErrorCode::kBusy, "the tree of process " + std::to_string(root) +
                                          " forks faster than its processes can be moved to a "
                                          "cgroup of their own")
      .advise("start it in a cgroup of its own");
}

Result<std::vector<pid_t>> UnifiedGroup::processes() const {
  if (::access(path_.c_str(), F_OK) != 0) return group_error("read", path_, errno);
  return processes_in(path_);
}

Result<bool> UnifiedGroup::wait_for(const std::string& line, Clock::time_point deadline) const {
  for (;;) {
    std::string text(256, '\0');
    const ssize_t got = ::pread(events_.get(), text.data(), text.size(), 0);
    if (got < 0 && errno == ENODEV) return true;  // Removed: nothing is in it.
    if (got < 0) return group_error("watch", path_, errno);
    text.resize(static_cast<std::size_t>(got));
    if (text.find(line) != std::string::npos) return true;
    const auto left = deadline - Clock::now();
    if (left <= Clock::duration::zero()) return false;
    // Whoever is interrupted by a signal looks again; and so does every 100 ms, should the event
    // have come between the read and the poll.
    pollfd changed{events_.get(), POLLPRI, 0};
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(left).count() + 1;
    ::poll(&changed, 1, static_cast<int>(std::min<std::int64_t>(ms, 100)));
  }
}

Status UnifiedGroup::freeze(bool frozen, std::chrono::steady_clock::time_point deadline) {
  const int error = write_text(path_ + "/cgroup.freeze", frozen ? "1" : "0");
  if (error == ENOENT || error == ENODEV) {
    return make_errno_error(ErrorCode::kNotFound, error, "the cgroup " + path_ + " is gone");
  }
  if (error != 0) return group_error(frozen ? "freeze" : "thaw", path_, error);
  frozen_ = frozen;
  if (!frozen) return {};
  MIGRATE_ASSIGN(const bool stands, wait_for("frozen 1", deadline));
  if (stands) return {};
  return make_error(ErrorCode::kTimeout,
                    "not all processes in the cgroup " + path_ + " came to a stand in time")
      .advise("look for processes in state D (uninterruptible), in a slow file system say");
}

Status UnifiedGroup::kill(std::chrono::steady_clock::time_point deadline) {
  const int error = write_text(path_ + "/cgroup.kill", "1");
  if (error == ENOENT || error == ENODEV) return {};
  if (error != 0) return group_error("kill the processes in", path_, error);
  killed_ = true;
  MIGRATE_ASSIGN(const bool empty, wait_for("populated 0", deadline));
  if (empty) return {};
  return make_error(ErrorCode::kTimeout,
                    "processes in the cgroup " + path_ + " were killed and are still there")
      .advise("look for processes in state D (uninterruptible), in a slow file system say");
}

bool UnifiedGroup::move_back() {
  bool all = true;
  for (const pid_t pid : processes_in(path_)) {
    const auto known = former_.find(pid);
    const std::string& home = known != former_.end() ? known->second : home_;
    int error = write_text(home + "/cgroup.procs", std::to_string(pid));
    if (error != 0 && error != ESRCH && home != home_) {
      error = write_text(home_ + "/cgroup.procs", std::to_string(pid));
    }
    if (error != 0 && error != ESRCH) all = false;
  }
  return all;
}

UnifiedGroup::~UnifiedGroup() {
  if (kept_) return;
  // Also of one that was killed: to a runtime whose group it is the container would look paused.
  if (frozen_) (void)write_text(path_ + "/cgroup.freeze", "0");
  if (!made_) return;
  const Clock::time_point until = Clock::now() + kRemoveTime;
  for (;;) {
    const bool moved = killed_ || move_back();
    const int error = remove_group(path_);
    if (error == 0) return;
    if (Clock::now() >= until || !moved) {
      log_line(LogLevel::kWarning, "the cgroup " + path_ + " stays: " +
                                       make_errno_error(ErrorCode::kIo, error, "").to_text());
      return;
    }
    // Somebody forked meanwhile, or the kernel has not let go of the last one yet.
    (void)wait_for("populated 0", Clock::now() + std::chrono::milliseconds(10));
  }
}

Result<std::unique_ptr<UnifiedGroup>> make_group(const std::string& parent,
                                                 const std::string& name) {
  static std::atomic<unsigned> made{0};
  for (int tries = 0; tries < kPassesMax; ++tries) {
    const std::string path =
        parent + "/" + name + "-" + std::to_string(::getpid()) + "-" + std::to_string(made++);
    if (::mkdir(path.c_str(), 0755) == 0) {
      auto group = std::make_unique<UnifiedGroup>(path, parent, true);
      MIGRATE_TRY(group->open_files());
      return group;
    }
    if (errno != EEXIST) return group_error("make", path, errno);
  }
  return make_error(ErrorCode::kNameTaken, "no name is free for a cgroup in " + parent);
}

/// The group that has all of `pids`, and nobody else; empty where there is none.
std::string group_of_all(const std::string& mount, const std::vector<pid_t>& pids) {
  std::string common;
  for (const pid_t pid : pids) {
    const auto group = group_of(mount, pid);
    if (!group) return {};
    if (group->empty()) continue;
    if (common.empty()) common = *group;
    while (*group != common && !group->starts_with(common + "/")) {
      common.resize(common.rfind('/'));
      if (common.size() <= mount.size()) return {};
    }
  }
  if (common.size() <= mount.size()) return {};
  // Forked meanwhile: descendants as well, when looked at again.
  return processes_in(common) == pids ? common : std::string();
}

}  // namespace

Result<std::unique_ptr<TreeCgroup>> TreeCgroup::of_tree(pid_t root) {
  MIGRATE_ASSIGN(const std::string mount, hierarchy());
  const std::vector<pid_t> pids = members_of(root);
  if (pids.empty()) {
    return make_error(ErrorCode::kNotFound, "there is no process " + std::to_string(root));
  }
  if (const std::string own = group_of_all(mount, pids); !own.empty()) {
    auto group = std::make_unique<UnifiedGroup>(own, own, false);
    MIGRATE_TRY(group->open_files());
    return std::unique_ptr<TreeCgroup>(std::move(group));
  }
  MIGRATE_ASSIGN(const std::string home, group_of(mount, root));
  if (home.empty()) {
    return make_error(ErrorCode::kNotFound, "there is no process " + std::to_string(root));
  }
  MIGRATE_ASSIGN(auto group, make_group(home, "migrate"));
  MIGRATE_TRY(group->take_in(mount, root));
  return std::unique_ptr<TreeCgroup>(std::move(group));
}

Result<std::unique_ptr<TreeCgroup>> TreeCgroup::create(const std::string& name) {
  MIGRATE_ASSIGN(const std::string mount, hierarchy());
  MIGRATE_ASSIGN(const std::string home, group_of(mount, ::getpid()));
  if (home.empty()) return no_hierarchy("this process is in none");
  std::string fit = name.substr(0, kNameMax);
  for (char& c : fit) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!plain && c != '-' && c != '_') c = '_';
  }
  MIGRATE_ASSIGN(auto group, make_group(home, fit.empty() ? "migrate" : fit));
  return std::unique_ptr<TreeCgroup>(std::move(group));
}

}  // namespace migrate::containers
