#include "adapters/containers/criu/criu_process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "adapters/containers/criu/criu_child.hpp"
#include "adapters/containers/criu/hidden_layout.hpp"

namespace migrate::containers {
namespace {

// Where the program finds what it inherits; the caller's own are from 100 on.
constexpr int kSocketNumber = 3;
constexpr int kConfigNumber = 4;
constexpr int kHiddenNumber = 5;
constexpr int kCallersFirst = 100;

constexpr std::size_t kOutputMax = std::size_t{64} << 10;

Error no_descriptor(const std::string& what) {
  return make_errno_error(ErrorCode::kIo, errno, "cannot create " + what + " for CRIU")
      .advise("raise the limit of open files (ulimit -n)");
}

/// PATH is looked through here, so that the error can say so.
Result<std::string> find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  const char* variable = std::getenv("PATH");
  const std::string folders = variable == nullptr ? "/usr/sbin:/usr/bin:/sbin:/bin" : variable;
  for (std::size_t from = 0; !name.empty() && from <= folders.size();) {
    const std::size_t to = std::min(folders.find(':', from), folders.size());
    std::string path = folders.substr(from, to - from) + "/" + name;
    if (path.front() == '/' && ::access(path.c_str(), X_OK) == 0) return path;
    from = to + 1;
  }
  return make_error(ErrorCode::kNotFound, "there is no program '" + name + "' in PATH")
      .advise("install CRIU 4.1 or newer, or give the path of its program");
}

Status check_launch(const CriuLaunch& launch) {
  for (const auto& [ours, number] : launch.descriptors) {
    MIGRATE_CHECK(ours >= 0 && number >= kCallersFirst);
  }
  if (launch.hidden_areas_fd < 0) return {};
  const std::string& shim = launch.program.shim;
  if (shim.empty() || shim.find_first_of(": ") != std::string::npos) {
    return make_error(ErrorCode::kInvalidArgument,
                      "the library that hides memory from CRIU cannot be loaded from '" + shim +
                          "': the path is empty or has a colon or a space")
        .advise("install it elsewhere, or do without");
  }
  if (::access(shim.c_str(), R_OK) == 0) return {};
  return make_errno_error(ErrorCode::kNotFound, errno,
                          "cannot read the library that hides memory from CRIU, " + shim)
      .advise("give the path of libmigrate-criu-shim.so, or none: CRIU then reads all memory");
}

std::vector<std::string> environment_for(const CriuLaunch& launch) {
  const bool hide = launch.hidden_areas_fd >= 0;
  const std::string preload = "LD_PRELOAD=";
  const std::string hidden = std::string(kHiddenVariable) + "=";
  std::string libraries = launch.program.shim;
  std::vector<std::string> variables;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string variable = *entry;
    if (variable.starts_with(hidden)) continue;
    if (hide && variable.starts_with(preload)) {
      libraries += ":" + variable.substr(preload.size());
      continue;
    }
    variables.push_back(variable);
  }
  if (hide) {
    variables.push_back(preload + libraries);
    variables.push_back(hidden + std::to_string(kHiddenNumber));
  }
  return variables;
}

/// For execve, which takes what it does not write to as if it did.
std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& string : strings) result.push_back(string.data());
  result.push_back(nullptr);
  return result;
}

/// What the child inherits, copied out of the way of the numbers that it is to have.
class Inheritance {
 public:
  explicit Inheritance(const CriuLaunch& launch) {
    for (const auto& [ours, number] : launch.descriptors) first_ = std::max(first_, number + 1);
  }
  Status add(int ours, int number) {
    MIGRATE_ASSIGN(Fd copy, out_of_the_way(ours));
    descriptors_.emplace_back(copy.get(), number);
    copies_.push_back(std::move(copy));
    return {};
  }
  Result<Fd> out_of_the_way(int ours) const {
    Fd copy(::fcntl(ours, F_DUPFD_CLOEXEC, first_));
    if (!copy) return no_descriptor("a copy of descriptor " + std::to_string(ours));
    return copy;
  }
  void fill(ChildPlan& plan) const {
    plan.descriptors = descriptors_;
    for (const auto& [ours, number] : descriptors_) plan.keep.push_back(number);
    plan.keep.push_back(plan.report);
    std::sort(plan.keep.begin(), plan.keep.end());
  }

 private:
  int first_ = kCallersFirst;
  std::vector<Fd> copies_;
  std::vector<std::pair<int, int>> descriptors_;
};

Result<std::vector<Fd>> open_cgroups(const std::vector<std::string>& files) {
  std::vector<Fd> opened;
  for (const std::string& file : files) {
    Fd fd(::open(file.c_str(), O_WRONLY | O_CLOEXEC));
    if (!fd) {
      return make_errno_error(errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kPermission,
                              errno, "cannot put CRIU into a cgroup by " + file)
          .advise("run as root");
    }
    opened.push_back(std::move(fd));
  }
  return opened;
}

struct Ends {
  Fd ours;
  Fd theirs;
};

Result<Ends> make_pair(bool socket) {
  std::array<int, 2> ends{-1, -1};
  const int failed = socket ? ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data())
                            : ::pipe2(ends.data(), O_CLOEXEC);
  if (failed != 0) return no_descriptor(socket ? "a socket" : "a pipe");
  return Ends{Fd(ends[0]), Fd(ends[1])};
}

Result<Fd> make_file(const char* name, bool bounded) {
  Fd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return no_descriptor("a file in memory");
  if (bounded && (::ftruncate(fd.get(), kOutputMax) != 0 ||
                  ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) != 0)) {
    return no_descriptor("a file in memory");
  }
  return fd;
}

}  // namespace

Result<std::unique_ptr<CriuProcess>> CriuProcess::start(const CriuLaunch& launch) {
  MIGRATE_TRY(check_launch(launch));
  MIGRATE_ASSIGN(const std::string path, find_program(launch.program.path));
  // CRIU opens our folder of images by the pid that the kernel notes in this call: this process's.
  MIGRATE_ASSIGN(Ends socket, make_pair(true));
  MIGRATE_ASSIGN(Ends report, make_pair(false));
  MIGRATE_ASSIGN(Fd config, make_file("criu-config", false));
  MIGRATE_ASSIGN(Fd output, make_file("criu-output", true));
  const Fd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!nothing) return no_descriptor("/dev/null");

  Inheritance inherited(launch);
  MIGRATE_TRY(inherited.add(nothing.get(), STDIN_FILENO));
  MIGRATE_TRY(inherited.add(output.get(), STDOUT_FILENO));
  MIGRATE_TRY(inherited.add(output.get(), STDERR_FILENO));
  MIGRATE_TRY(inherited.add(socket.theirs.get(), kSocketNumber));
  MIGRATE_TRY(inherited.add(config.get(), kConfigNumber));
  if (launch.hidden_areas_fd >= 0) {
    MIGRATE_TRY(inherited.add(launch.hidden_areas_fd, kHiddenNumber));
  }
  for (const auto& [ours, number] : launch.descriptors) MIGRATE_TRY(inherited.add(ours, number));
  MIGRATE_ASSIGN(Fd report_write, inherited.out_of_the_way(report.theirs.get()));
  report.theirs.reset();
  MIGRATE_ASSIGN(const std::vector<Fd> cgroups, open_cgroups(launch.cgroup_procs));

  std::vector<std::string> words{path, "swrk", std::to_string(kSocketNumber)};
  std::vector<std::string> variables = environment_for(launch);
  const std::vector<char*> arguments = pointers(words);
  const std::vector<char*> environment = pointers(variables);
  ChildPlan plan;
  plan.path = path.c_str();
  plan.arguments = arguments.data();
  plan.environment = environment.data();
  plan.report = report_write.get();
  for (const Fd& cgroup : cgroups) plan.cgroups.push_back(cgroup.get());
  inherited.fill(plan);
  MIGRATE_ASSIGN(const pid_t pid, run_child(plan, std::move(report_write), report.ours.get()));

  Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd) {
    const Error error = no_descriptor("a pidfd");
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return error;
  }
  return std::unique_ptr<CriuProcess>(new CriuProcess(pid, std::move(pidfd), std::move(socket.ours),
                                                      std::move(config), std::move(output)));
}

CriuProcess::~CriuProcess() {
  kill();
  reap(true);
}

void CriuProcess::kill() noexcept {
  // By pidfd: the number may be another's once the process has been waited for.
  ::syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
}

bool CriuProcess::reap(bool wait) noexcept {
  while (!reaped_) {
    siginfo_t info = {};
    if (::waitid(P_PIDFD, static_cast<id_t>(pidfd_.get()), &info, WEXITED | (wait ? 0 : WNOHANG)) !=
        0) {
      if (errno == EINTR) continue;
      reaped_ = true;  // Somebody else waits for all children of this process.
    } else if (info.si_pid == 0) {
      return false;
    } else {
      reaped_ = true;
      code_ = info.si_code;
      status_ = info.si_status;
    }
  }
  return true;
}

Status CriuProcess::set_config(std::string_view text) {
  if (::pwrite(config_.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size())) {
    return {};
  }
  return make_errno_error(ErrorCode::kNoMemory, errno, "cannot write CRIU's configuration");
}

std::string CriuProcess::how_ended(Deadline deadline) {
  while (!reap(false)) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return "does not end";
    pollfd ended{.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
    ::poll(&ended, 1, static_cast<int>(std::min<long long>(left.count(), 1000)));
  }
  switch (code_) {
    case CLD_EXITED:
      return "ended with status " + std::to_string(status_);
    case CLD_KILLED:
    case CLD_DUMPED:
      return "was killed by signal " + std::to_string(status_) + " (" + ::strsignal(status_) + ")";
    default:
      return "has ended";
  }
}

std::string CriuProcess::output() const {
  std::string text(kOutputMax, '\0');
  const ssize_t got = ::pread(output_.get(), text.data(), text.size(), 0);
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  // The file has its full length from the start.
  text.resize(std::min(text.find('\0'), text.size()));
  return text;
}

}  // namespace migrate::containers
