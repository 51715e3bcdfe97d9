// TakeoverHook: a command of the operator's, run once the guest has started here: for networks that
// do not listen to announcements, such as a cloud's routes.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/event_fd.hpp"
#include "base/mutex.hpp"
#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate::tool {

/// What became of it.
struct HookEnd {
  enum class Kind { kOk, kFailed, kSignalled, kTimeout, kStopped, kNotStarted };
  Kind kind = Kind::kOk;
  int number = 0;  ///< Exit code or signal.
  double ms = 0;
  std::string text;  ///< What went wrong, in words; empty: nothing.
};
[[nodiscard]] const char* to_string(HookEnd::Kind kind);

class TakeoverHook {
 public:
  using Variables = std::vector<std::pair<std::string, std::string>>;

  /// `command` is the shell's; what runs longer than `limit` is killed, and what is still in its
  /// process group when the shell has ended.
  static Result<std::unique_ptr<TakeoverHook>> create(std::string command,
                                                      std::chrono::milliseconds limit);
  /// Kills what still runs.
  ~TakeoverHook();

  /// Runs it, with `variables` added to the environment. Once; does not wait for anything.
  void run(Variables variables);
  /// Kills it, or keeps it from running: either way wait() has its end. Any thread.
  void stop() noexcept;
  /// Its end; nullopt while it runs and where it never was to. Waits until `deadline`.
  [[nodiscard]] std::optional<HookEnd> wait(SteadyTime deadline);

 private:
  TakeoverHook(std::string command, std::chrono::milliseconds limit, EventFd stop);
  void serve();
  HookEnd execute(const Variables& variables);
  HookEnd await(pid_t child);

  const std::string command_;
  const std::chrono::milliseconds limit_;
  EventFd stop_;
  Mutex mutex_;
  CondVar changed_;
  std::optional<Variables> variables_ MIGRATE_GUARDED_BY(mutex_);
  bool stopped_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::optional<HookEnd> end_ MIGRATE_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace migrate::tool
