// CriuProcess: a `criu swrk` that runs, and its end of the socket; no word of what is said on it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "adapters/containers/criu/criu_worker.hpp"
#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// What the program finds its configuration file as: what set_config() has written.
inline constexpr char kCriuConfigPath[] = "/proc/self/fd/4";

/// One thread at a time, except kill(), which any may call.
class CriuProcess {
 public:
  /// As CriuWorker::launch().
  static Result<std::unique_ptr<CriuProcess>> start(const CriuLaunch& launch);
  CriuProcess(const CriuProcess&) = delete;
  CriuProcess& operator=(const CriuProcess&) = delete;
  /// Kills it, and waits until it is gone.
  ~CriuProcess();

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] int socket() const { return socket_.get(); }  ///< SEQPACKET.
  [[nodiscard]] int pidfd() const { return pidfd_.get(); }    ///< Readable once it has ended.
  void kill() noexcept;
  Status set_config(std::string_view text);
  /// "was killed by signal 9 (Killed)", "ended with status 1"; waits for the end until `deadline`,
  /// "does not end" after that.
  std::string how_ended(Deadline deadline);
  /// What it has written to standard output and error, of which the first 64 KiB are kept.
  [[nodiscard]] std::string output() const;

 private:
  CriuProcess(pid_t pid, Fd pidfd, Fd socket, Fd config, Fd output)
      : pid_(pid),
        pidfd_(std::move(pidfd)),
        socket_(std::move(socket)),
        config_(std::move(config)),
        output_(std::move(output)) {}
  /// True once it has been waited for.
  bool reap(bool wait) noexcept;

  pid_t pid_;
  Fd pidfd_;
  Fd socket_;
  Fd config_;
  Fd output_;
  bool reaped_ = false;
  int code_ = 0;    ///< As in siginfo_t, once reaped.
  int status_ = 0;  ///< The same.
};

}  // namespace migrate::containers
