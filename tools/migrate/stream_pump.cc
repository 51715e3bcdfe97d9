#include "stream_pump.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <vector>

#include "base/start_thread.hpp"

namespace migrate::tool {
namespace {

constexpr int kPipeBytes = 1 << 20;

}  // namespace

Result<std::unique_ptr<StreamPump>> StreamPump::start(int out) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot make a pipe")
        .advise("raise the limit of open files (ulimit -n)");
  }
  Fd read(ends[0]);
  Fd write(ends[1]);
  MIGRATE_ASSIGN(EventFd given_up, EventFd::create());
  std::unique_ptr<StreamPump> pump(
      new StreamPump(std::move(read), std::move(write), std::move(given_up)));
  // A larger one saves switches; one as it comes works, too.
  static_cast<void>(fcntl(ends[1], F_SETPIPE_SZ, kPipeBytes));
  MIGRATE_TRY(start_thread(pump->thread_, "stream", [raw = pump.get(), out] { raw->run(out); }));
  return pump;
}

StreamPump::~StreamPump() { static_cast<void>(finish()); }

int StreamPump::write_all(int out, std::span<const char> bytes) const {
  struct stat about {};
  // What poll() calls writable has room for so much at least; a file takes all.
  const bool file = ::fstat(out, &about) == 0 && S_ISREG(about.st_mode);
  const std::size_t most = file ? bytes.size() : std::size_t{PIPE_BUF};
  while (!bytes.empty()) {
    std::array<pollfd, 2> waits = {pollfd{out, POLLOUT, 0}, pollfd{given_up_.fd(), POLLIN, 0}};
    if (poll(waits.data(), waits.size(), -1) < 0) continue;
    if (waits[1].revents != 0) return ECANCELED;
    const ssize_t wrote = write(out, bytes.data(), std::min(bytes.size(), most));
    if (wrote < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      return errno;
    }
    bytes = bytes.subspan(static_cast<std::size_t>(wrote));
  }
  return 0;
}

std::string StreamPump::path() const {
  return "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(write_.get());
}

void StreamPump::run(int out) {
  std::vector<char> bytes(kPipeBytes);
  for (;;) {
    const ssize_t got = read(read_.get(), bytes.data(), bytes.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    if (const int error = write_all(out, std::span(bytes).first(static_cast<std::size_t>(got)))) {
      result_ = error == ECANCELED
                    ? make_error(ErrorCode::kCancelled, "the image was not written to its end")
                    : make_errno_error(ErrorCode::kIo, error, "cannot write to standard output")
                          .advise("the program that reads it has ended");
      break;
    }
  }
  // Whoever still writes gets an error instead of waiting.
  read_.reset();
}

Status StreamPump::finish() {
  write_.reset();
  if (thread_.joinable()) thread_.join();
  return result_;
}

}  // namespace migrate::tool
