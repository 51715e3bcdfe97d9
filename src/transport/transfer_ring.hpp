// TransferRing: an io_uring that moves bytes through a socket, one transfer at a time.
#pragma once

#include <liburing.h>
#include <sys/socket.h>

#include <cstdint>
#include <memory>

#include "migrate/result.hpp"
#include "transport/socket_state.hpp"

namespace migrate {

/// kUnsupported, with the reason, where this process cannot use io_uring.
[[nodiscard]] Status check_uring();

/// Belongs to the thread that made it: the kernel runs what completes on that thread alone.
class TransferRing {
 public:
  struct Outcome {
    enum class Kind : std::uint8_t {
      kMoved,        ///< `count` bytes; 0 received is the end of the stream.
      kFailed,       ///< The transfer, by `sys_errno`.
      kTimedOut,     ///< Nothing moved.
      kInterrupted,  ///< Nothing moved.
      kBroken,       ///< The ring takes no transfers, by `sys_errno`; nothing moved.
    };
    Kind kind = Kind::kMoved;
    std::size_t count = 0;
    int sys_errno = 0;
  };

  /// `interrupt` must outlive it.
  static Result<std::unique_ptr<TransferRing>> create(const EventFd& interrupt);
  ~TransferRing();
  TransferRing(const TransferRing&) = delete;
  TransferRing& operator=(const TransferRing&) = delete;

  [[nodiscard]] bool is_this_threads() const;
  /// Once it returns the kernel has let go of the buffers, however it ended.
  [[nodiscard]] Outcome transfer(Way way, int socket, msghdr& message, SteadyDeadline deadline);

 private:
  /// What the completions have told of the transfer under way.
  struct Progress {
    bool done = false;
    int result = 0;  // As of the system call: a count, or an errno below 0.
    bool interrupted = false;
  };

  explicit TransferRing(const EventFd& interrupt);
  void prepare(Way way, int socket, msghdr& message);
  void prepare_cancel();
  /// Gives the kernel what was prepared, waits for a completion. 0, or an errno.
  int enter(std::chrono::nanoseconds timeout);
  void take_completions(Progress& progress);

  const std::uint64_t thread_;
  const EventFd& interrupt_;
  io_uring ring_{};
  bool watching_ = false;  // A poll of the interrupt is under way.
};

}  // namespace migrate
