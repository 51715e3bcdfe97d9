#include "takeover_hook.hpp"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <system_error>

#include "base/fd.hpp"
#include "base/guarded.hpp"
#include "base/log.hpp"
#include "base/start_thread.hpp"

namespace migrate::tool {
namespace {

constexpr const char* kShell = "/bin/sh";
constexpr int kNotFoundStatus = 127;  // The shell's.

/// posix_spawn's two objects, freed.
class HookPlan {
 public:
  HookPlan() {
    posix_spawn_file_actions_init(&actions_);
    posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    // Standard output is the report's.
    posix_spawn_file_actions_adddup2(&actions_, STDERR_FILENO, STDOUT_FILENO);
    posix_spawn_file_actions_addclosefrom_np(&actions_, STDERR_FILENO + 1);
    posix_spawnattr_init(&attributes_);
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes_, &none);
    sigset_t all;
    sigfillset(&all);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    // A group of its own, to be killed whole; and ^C at the terminal is not for it.
    posix_spawnattr_setpgroup(&attributes_, 0);
    posix_spawnattr_setflags(
        &attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  }
  ~HookPlan() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  HookPlan(const HookPlan&) = delete;
  HookPlan& operator=(const HookPlan&) = delete;

  int run(pid_t& child, std::string command, std::vector<std::string> environment) {
    std::string shell = kShell;
    std::string option = "-c";
    std::array<char*, 4> arguments = {shell.data(), option.data(), command.data(), nullptr};
    std::vector<char*> variables;
    for (std::string& variable : environment) variables.push_back(variable.data());
    variables.push_back(nullptr);
    return posix_spawn(&child, kShell, &actions_, &attributes_, arguments.data(), variables.data());
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

std::vector<std::string> environment_with(const TakeoverHook::Variables& variables) {
  std::vector<std::string> all;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view name(*variable, strcspn(*variable, "="));
    const bool ours = std::any_of(variables.begin(), variables.end(),
                                  [&](const auto& one) { return one.first == name; });
    if (!ours) all.emplace_back(*variable);
  }
  for (const auto& [name, value] : variables) all.push_back(name + "=" + value);
  return all;
}

HookEnd end_of(int status) {
  if (WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    return {HookEnd::Kind::kSignalled, number, 0,
            "it was ended by signal " + std::to_string(number)};
  }
  const int code = WEXITSTATUS(status);
  if (code == 0) return {};
  return {HookEnd::Kind::kFailed, code, 0,
          "it ended with exit code " + std::to_string(code) +
              (code == kNotFoundStatus ? ": the shell found no such command" : "")};
}

}  // namespace

const char* to_string(HookEnd::Kind kind) {
  switch (kind) {
    case HookEnd::Kind::kOk:
      return "ok";
    case HookEnd::Kind::kFailed:
      return "failed";
    case HookEnd::Kind::kSignalled:
      return "signalled";
    case HookEnd::Kind::kTimeout:
      return "timeout";
    case HookEnd::Kind::kStopped:
      return "stopped";
    case HookEnd::Kind::kNotStarted:
      return "not-started";
  }
  return "failed";
}

Result<std::unique_ptr<TakeoverHook>> TakeoverHook::create(std::string command,
                                                           std::chrono::milliseconds limit) {
  MIGRATE_ASSIGN(EventFd stop, EventFd::create());
  std::unique_ptr<TakeoverHook> hook(new TakeoverHook(std::move(command), limit, std::move(stop)));
  MIGRATE_TRY(start_thread(hook->thread_, "takeover-hook", [hook = hook.get()] { hook->serve(); }));
  return hook;
}

TakeoverHook::TakeoverHook(std::string command, std::chrono::milliseconds limit, EventFd stop)
    : command_(std::move(command)), limit_(limit), stop_(std::move(stop)) {}

TakeoverHook::~TakeoverHook() {
  stop();
  if (thread_.joinable()) thread_.join();
}

void TakeoverHook::run(Variables variables) {
  MutexLock lock(mutex_);
  MIGRATE_CHECK(!variables_);
  variables_ = std::move(variables);
  changed_.notify_all();
}

void TakeoverHook::stop() noexcept {
  MutexLock lock(mutex_);
  stopped_ = true;
  stop_.set();
  changed_.notify_all();
}

std::optional<HookEnd> TakeoverHook::wait(SteadyTime deadline) {
  MutexLock lock(mutex_);
  while (variables_ && !end_) {
    if (!changed_.wait_until(mutex_, deadline)) break;
  }
  return end_;
}

void TakeoverHook::serve() {
  Variables variables;
  {
    MutexLock lock(mutex_);
    while (!variables_ && !stopped_) changed_.wait(mutex_);
    if (stopped_) {
      end_ = {HookEnd::Kind::kStopped, 0, 0, {}};
      changed_.notify_all();
      return;
    }
    variables = *variables_;
  }
  const auto begin = std::chrono::steady_clock::now();
  HookEnd end;
  const Status ran = guarded([&]() -> Status {
    end = execute(variables);
    return {};
  });
  if (!ran) end = {HookEnd::Kind::kNotStarted, 0, 0, ran.error().message};
  end.ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  if (!end.text.empty()) log_line(LogLevel::kWarning, "the takeover hook: " + end.text);
  MutexLock lock(mutex_);
  end_ = std::move(end);
  changed_.notify_all();
}

HookEnd TakeoverHook::execute(const Variables& variables) {
  HookPlan plan;
  pid_t child = -1;
  if (const int failure = plan.run(child, command_, environment_with(variables)); failure != 0) {
    return {HookEnd::Kind::kNotStarted, 0, 0,
            std::string("no shell can be started: ") + std::generic_category().message(failure)};
  }
  return await(child);
}

HookEnd TakeoverHook::await(pid_t child) {
  // As a system call: the header of glibc 2.36 forgets that this is C.
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
  const auto until = std::chrono::steady_clock::now() + limit_;
  std::optional<HookEnd> cut;
  while (process && !cut) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    std::array<pollfd, 2> waits = {pollfd{process.get(), POLLIN, 0}, pollfd{stop_.fd(), POLLIN, 0}};
    const int ready =
        left.count() <= 0 ? 0 : ::poll(waits.data(), waits.size(), static_cast<int>(left.count()));
    if (ready < 0) continue;
    if (waits[0].revents != 0) break;
    if (ready == 0) {
      cut = HookEnd{HookEnd::Kind::kTimeout, 0, 0,
                    "it was killed after " + std::to_string(limit_.count()) + " ms"};
    } else {
      cut = HookEnd{HookEnd::Kind::kStopped, 0, 0, "it was killed, because its guest has ended"};
    }
  }
  // Also what it has left in the background, while its number is still its own: not reaped yet.
  // Without a descriptor of it nothing bounds the wait: it is not let to run at all.
  ::kill(-child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return cut ? *std::move(cut) : end_of(status);
}

}  // namespace migrate::tool
