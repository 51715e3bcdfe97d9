// The socket by which a CRIU that restores with lazy pages gives away its tasks' userfaultfds.
// UNIX stream; for each task an int32 pid (negative: a zombie, which has no memory), then a byte
// with the descriptor in SCM_RIGHTS; last of all 0x52535446. (CRIU 3.x to 4.2; no stable
// interface.)
#pragma once

#include <sys/types.h>

#include <string>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

class LazySocket {
 public:
  static Result<LazySocket> listen(const std::string& folder);
  ~LazySocket();
  LazySocket(LazySocket&& other) noexcept = default;
  LazySocket& operator=(LazySocket&& other) noexcept = default;

  /// To wait for with POLLIN; -1 once all has been said.
  [[nodiscard]] int fd() const { return connection_ ? connection_.get() : listener_.get(); }
  struct Told {
    enum class Kind { kNothing, kTask, kEnd } kind = Kind::kNothing;
    pid_t pid = 0;
    Fd userfaultfd;
  };
  /// When fd() is readable. Waits for the rest of what has begun, a second at most.
  Result<Told> take();

 private:
  LazySocket(Fd listener, std::string path)
      : listener_(std::move(listener)), path_(std::move(path)) {}
  Result<Fd> take_descriptor();

  Fd listener_;
  Fd connection_;
  std::string path_;
};

}  // namespace migrate::containers
