// StreamPump: what another process writes to a pipe of this one goes to standard output.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <thread>

#include "base/event_fd.hpp"
#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::tool {

class StreamPump {
 public:
  /// Moves bytes to `out` (which stays the caller's) on a thread of its own.
  static Result<std::unique_ptr<StreamPump>> start(int out);
  ~StreamPump();

  /// What the other process opens to write to; good until finish().
  [[nodiscard]] std::string path() const;
  /// What has not come through is not wanted any more: finish() waits for no reader of `out`.
  void give_up() { given_up_.set(); }
  /// Once the other process has written all: waits until it is through. What failed, if anything:
  /// then the other process has got an error, too.
  Status finish();

 private:
  StreamPump(Fd read, Fd write, EventFd given_up)
      : read_(std::move(read)), write_(std::move(write)), given_up_(std::move(given_up)) {}
  void run(int out);
  /// The errno of a failure, or 0; ECANCELED once it was given up.
  [[nodiscard]] int write_all(int out, std::span<const char> bytes) const;

  Fd read_;
  Fd write_;
  EventFd given_up_;
  Status result_;  // The thread's, until it is joined.
  std::thread thread_;
};

}  // namespace migrate::tool
