// StreamInput: bytes from a pipe, in one go; a wait for them can be ended.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "base/event_fd.hpp"
#include "migrate/result.hpp"

namespace migrate::checkpoint {

/// One thread's, but interrupt().
class StreamInput {
 public:
  /// `fd` and `cancel_fd` (or -1) stay the caller's.
  static Result<StreamInput> create(int fd, int cancel_fd);

  /// Exactly into.size() bytes. kIntegrity where the stream ends before, kIo, kCancelled.
  Status read(std::span<std::byte> into);
  Status skip(std::uint64_t bytes);
  /// kIntegrity when anything else comes.
  Status expect_end();
  /// Bytes read so far.
  [[nodiscard]] std::uint64_t offset() const { return offset_; }

  /// What waits ends with kCancelled, as will what reads from now on. Any thread.
  void interrupt() noexcept { interrupted_.set(); }

 private:
  StreamInput(int fd, int cancel_fd, EventFd interrupted)
      : fd_(fd), cancel_fd_(cancel_fd), interrupted_(std::move(interrupted)) {}
  Status wait() const;
  /// 0 at the end.
  Result<std::size_t> some(std::span<std::byte> into);

  int fd_;
  int cancel_fd_;
  EventFd interrupted_;
  std::uint64_t offset_ = 0;
};

}  // namespace migrate::checkpoint
