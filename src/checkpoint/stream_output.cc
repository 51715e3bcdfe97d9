#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <memory>
#include <optional>
#include <utility>

#include "base/event_fd.hpp"
#include "base/mutex.hpp"
#include "checkpoint/aligned_buffer.hpp"
#include "checkpoint/image_output.hpp"
#include "checkpoint/quiet_signal.hpp"

namespace migrate::checkpoint {
namespace {

/// Writes what a descriptor takes without waiting, whether it is a blocking one or not.
class Writer {
 public:
  explicit Writer(int fd) : fd_(fd) {
    struct stat about = {};
    if (::fstat(fd, &about) != 0) return;
    if (S_ISSOCK(about.st_mode)) way_ = Way::kSend;
    // A file never lets a writer wait long.
    if (S_ISREG(about.st_mode)) way_ = Way::kWrite;
  }

  ssize_t write(std::span<const std::byte> bytes) {
    if (way_ == Way::kSend) {
      return ::send(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    if (way_ == Way::kNoWait) {
      const iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
      const ssize_t written = ::pwritev2(fd_, &part, 1, -1, RWF_NOWAIT);
      if (written >= 0 || (errno != EOPNOTSUPP && errno != EINVAL && errno != ENOSYS)) {
        return written;
      }
      way_ = Way::kPieces;
    }
    // A pipe that poll() calls writable has room for so much.
    const std::size_t most = way_ == Way::kPieces ? std::size_t{PIPE_BUF} : bytes.size();
    return ::write(fd_, bytes.data(), std::min(bytes.size(), most));
  }

 private:
  enum class Way : std::uint8_t { kSend, kNoWait, kPieces, kWrite };
  int fd_;
  Way way_ = Way::kNoWait;
};

Error cancelled() {
  return make_error(ErrorCode::kCancelled, "writing the image to a stream was cancelled");
}

class StreamOutput final : public ImageOutput {
 public:
  StreamOutput(int fd, EventFd interrupt)
      : fd_(fd), interrupt_(std::move(interrupt)), writer_(fd) {}

  Result<std::unique_ptr<Lane>> make_lane() override {
    return std::unique_ptr<Lane>(std::make_unique<StreamLane>(*this));
  }
  std::uint64_t reserve(std::uint64_t bytes) override {
    return reserved_.fetch_add(bytes, std::memory_order_relaxed);
  }
  Status publish() override MIGRATE_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    if (failure_) return *failure_;
    if (interrupted_) return cancelled();
    if (next_ != reserved_) {
      return make_error(ErrorCode::kInternal, "not all of the image was written to the stream");
    }
    return {};
  }
  void interrupt() noexcept override MIGRATE_EXCLUDES(mutex_) {
    {
      const MutexLock lock(mutex_);
      interrupted_ = true;
    }
    interrupt_.set();
    turn_.notify_all();
  }

 private:
  class StreamLane final : public Lane {
   public:
    explicit StreamLane(StreamOutput& output) : output_(output) {}
    Result<std::span<std::byte>> buffer(std::size_t bytes) override {
      MIGRATE_TRY(memory_.reserve(bytes));
      return memory_.bytes();
    }
    Status write(std::uint64_t offset, std::size_t bytes) override {
      return output_.write(offset, memory_.bytes().first(bytes));
    }
    Status flush() override { return {}; }

   private:
    StreamOutput& output_;
    AlignedBuffer memory_;
  };

  /// In order: one thread at a time is past the wait, and only it writes.
  Status write(std::uint64_t offset, std::span<const std::byte> bytes) MIGRATE_EXCLUDES(mutex_) {
    {
      const MutexLock lock(mutex_);
      while (next_ != offset && !failure_ && !interrupted_) turn_.wait(mutex_);
      if (failure_) return *failure_;
      if (interrupted_) return cancelled();
    }
    const Status written = write_all(bytes);
    {
      const MutexLock lock(mutex_);
      if (written) {
        next_ = offset + bytes.size();
      } else {
        failure_ = written.error();
      }
    }
    turn_.notify_all();
    return written;
  }

  Status write_all(std::span<const std::byte> bytes) {
    const QuietSignal quiet(SIGPIPE);
    while (!bytes.empty()) {
      MIGRATE_TRY(wait_for_room());
      const ssize_t written = writer_.write(bytes);
      if (written >= 0) {
        bytes = bytes.subspan(static_cast<std::size_t>(written));
      } else if (errno != EINTR && errno != EAGAIN) {
        return failed(errno);
      }
    }
    return {};
  }

  Status wait_for_room() {
    std::array<pollfd, 2> waits = {{{fd_, POLLOUT, 0}, {interrupt_.fd(), POLLIN, 0}}};
    while (::poll(waits.data(), waits.size(), -1) < 0) {
      if (errno != EINTR) return failed(errno);
    }
    if (waits[1].revents != 0) return cancelled();
    return {};
  }

  static Error failed(int sys_errno) {
    if (sys_errno == EPIPE || sys_errno == ECONNRESET) {
      return make_errno_error(ErrorCode::kIo, sys_errno,
                              "the reader of the image's stream has gone")
          .advise("see what the program that reads it says, then checkpoint again");
    }
    return make_errno_error(ErrorCode::kIo, sys_errno, "cannot write the image to its stream")
        .advise("check what the stream leads to, then checkpoint again");
  }

  const int fd_;
  EventFd interrupt_;
  Writer writer_;  // Of the thread whose turn it is.
  std::atomic<std::uint64_t> reserved_{0};
  Mutex mutex_;
  CondVar turn_;
  std::uint64_t next_ MIGRATE_GUARDED_BY(mutex_) = 0;
  bool interrupted_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::optional<Error> failure_ MIGRATE_GUARDED_BY(mutex_);
};

}  // namespace

Result<std::unique_ptr<ImageOutput>> make_stream_output(int fd) {
  if (const int flags = ::fcntl(fd, F_GETFL); flags < 0 || (flags & O_ACCMODE) == O_RDONLY) {
    return make_errno_error(ErrorCode::kInvalidArgument, flags < 0 ? errno : EBADF,
                            "the image's stream cannot be written to")
        .advise("give a descriptor that is open for writing");
  }
  MIGRATE_ASSIGN(EventFd interrupt, EventFd::create());
  return std::unique_ptr<ImageOutput>(std::make_unique<StreamOutput>(fd, std::move(interrupt)));
}

}  // namespace migrate::checkpoint
