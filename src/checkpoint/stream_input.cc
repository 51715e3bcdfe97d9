#include "checkpoint/stream_input.hpp"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>

namespace migrate::checkpoint {
namespace {

Error wrong(std::uint64_t at, const std::string& what) {
  return make_error(ErrorCode::kIntegrity,
                    "the image is damaged at byte " + std::to_string(at) + ": " + what)
      .advise("look at what sends it, and send it again");
}

}  // namespace

Result<StreamInput> StreamInput::create(int fd, int cancel_fd) {
  MIGRATE_ASSIGN(EventFd interrupted, EventFd::create());
  return StreamInput(fd, cancel_fd, std::move(interrupted));
}

Status StreamInput::wait() const {
  std::array<pollfd, 3> waits{
      {{interrupted_.fd(), POLLIN, 0}, {cancel_fd_, POLLIN, 0}, {fd_, POLLIN, 0}}};
  while (::poll(waits.data(), waits.size(), -1) < 0) {
    if (errno != EINTR) {
      return make_errno_error(ErrorCode::kIo, errno, "cannot wait for the image's stream");
    }
  }
  if (waits[0].revents != 0 || waits[1].revents != 0) {
    return make_error(ErrorCode::kCancelled, "reading the image was cancelled");
  }
  return {};
}

Result<std::size_t> StreamInput::some(std::span<std::byte> into) {
  for (;;) {
    MIGRATE_TRY(wait());
    const ssize_t got = ::read(fd_, into.data(), into.size());
    if (got >= 0) {
      offset_ += static_cast<std::uint64_t>(got);
      return static_cast<std::size_t>(got);
    }
    if (errno != EINTR && errno != EAGAIN) {
      return make_errno_error(ErrorCode::kIo, errno,
                              "cannot read the image's stream at byte " + std::to_string(offset_));
    }
  }
}

Status StreamInput::read(std::span<std::byte> into) {
  while (!into.empty()) {
    MIGRATE_ASSIGN(const std::size_t got, some(into));
    if (got == 0) return wrong(offset_, "the stream ends there, before its TRAILER");
    into = into.subspan(got);
  }
  return {};
}

Status StreamInput::skip(std::uint64_t bytes) {
  std::array<std::byte, 4096> dropped;
  while (bytes > 0) {
    const std::size_t now = std::min<std::uint64_t>(bytes, dropped.size());
    MIGRATE_TRY(read(std::span(dropped).first(now)));
    bytes -= now;
  }
  return {};
}

Status StreamInput::expect_end() {
  std::byte more;
  const std::uint64_t end = offset_;
  MIGRATE_ASSIGN(const std::size_t got, some(std::span(&more, 1)));
  if (got != 0) return wrong(end, "the stream goes on after its TRAILER");
  return {};
}

}  // namespace migrate::checkpoint
