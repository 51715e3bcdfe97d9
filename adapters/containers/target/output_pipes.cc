#include "adapters/containers/target/output_pipes.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

#include "base/log.hpp"

namespace migrate::containers {
namespace {

constexpr std::size_t kPipeBytes = 65536;

bool write_all(int fd, const char* bytes, std::size_t count) {
  while (count > 0) {
    const ssize_t wrote = ::write(fd, bytes, count);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return false;
    bytes += wrote;
    count -= static_cast<std::size_t>(wrote);
  }
  return true;
}

}  // namespace

Result<OutputPipes> make_output_pipes() {
  OutputPipes pipes;
  for (std::size_t i = 0; i < kOutputsMax; ++i) {
    std::array<int, 2> ends{-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
      return make_errno_error(ErrorCode::kIo, errno, "no pipes can be had for the tree's output");
    }
    pipes.read_ends.emplace_back(ends[0]);
    pipes.write_ends.emplace_back(ends[1]);
  }
  return pipes;
}

Result<std::unique_ptr<OutputReader>> OutputReader::begin(std::vector<Fd> pipes, Fd file) {
  Fd stop(::eventfd(0, EFD_CLOEXEC));
  if (!stop) {
    return make_errno_error(ErrorCode::kIo, errno, "the tree's output cannot be read");
  }
  std::unique_ptr<OutputReader> reader(
      new OutputReader(std::move(pipes), std::move(file), std::move(stop)));
  try {
    reader->thread_ = std::thread([raw = reader.get()] { raw->run(); });
  } catch (const std::system_error& error) {
    return make_errno_error(ErrorCode::kNoMemory, error.code().value(),
                            "no thread can be had that reads the tree's output");
  }
  return reader;
}

OutputReader::~OutputReader() {
  if (!thread_.joinable()) return;
  constexpr std::uint64_t kOne = 1;
  (void)!::write(stop_.get(), &kOne, sizeof(kOne));
  thread_.join();
}

void OutputReader::run() {
  for (;;) {
    std::vector<pollfd> waiting{{stop_.get(), POLLIN, 0}};
    for (const Fd& pipe : pipes_) waiting.push_back({pipe.get(), POLLIN, 0});
    if (::poll(waiting.data(), waiting.size(), -1) < 0 && errno != EINTR) return;
    for (std::size_t i = pipes_.size(); i > 0; --i) {
      if (waiting[i].revents == 0 || take_from(pipes_[i - 1])) continue;
      pipes_.erase(pipes_.begin() + static_cast<std::ptrdiff_t>(i - 1));
    }
    // Last, so that what a tree wrote before it was ended is kept.
    if (waiting[0].revents != 0) return;
  }
}

bool OutputReader::take_from(const Fd& pipe) {
  std::array<char, kPipeBytes> piece;
  const ssize_t got = ::read(pipe.get(), piece.data(), piece.size());
  if (got < 0) return errno == EINTR || errno == EAGAIN;
  if (got > 0 && file_ && !write_all(file_.get(), piece.data(), static_cast<std::size_t>(got))) {
    log_line(LogLevel::kWarning,
             make_errno_error(ErrorCode::kIo, errno, "the tree's output is lost from here on")
                 .to_text());
    file_.reset();
  }
  return got > 0;
}

Result<Fd> open_output(const std::string& path) {
  if (path.empty()) return Fd();
  Fd file(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
  if (file) return file;
  return make_errno_error(ErrorCode::kInvalidArgument, errno,
                          "the tree's output cannot be written to " + path);
}

}  // namespace migrate::containers
