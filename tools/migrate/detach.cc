#include "detach.hpp"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

namespace migrate::tool {
namespace {

/// Waits for the child's word; ends this process.
[[noreturn]] void wait_for_child(pid_t child, const Fd& word) {
  char byte = 0;
  ssize_t got = 0;
  do {
    got = ::read(word.get(), &byte, 1);
  } while (got < 0 && errno == EINTR);
  if (got == 1) _exit(0);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

}  // namespace

Result<Detacher> Detacher::start() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot create a pipe");
  }
  Fd word(ends[0]);
  Fd parent(ends[1]);
  // What stdio holds back would be written by both processes.
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) return make_errno_error(ErrorCode::kIo, errno, "cannot start a process");
  if (child > 0) {
    parent.reset();
    wait_for_child(child, word);
  }
  return Detacher(std::move(parent));
}

Status Detacher::ready(const std::filesystem::path& log) {
  std::fflush(nullptr);
  const Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const Fd file(::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
  if (!null || !file) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot write the log " + log.string())
        .advise("check the runtime folder, or run without --detach");
  }
  dup2(null.get(), STDIN_FILENO);
  dup2(null.get(), STDOUT_FILENO);
  dup2(file.get(), STDERR_FILENO);
  setsid();
  const char byte = 1;
  const bool told = ::write(parent_.get(), &byte, 1) == 1;
  parent_.reset();
  if (told) return {};
  return make_error(ErrorCode::kCancelled, "the process that asked for this one has gone");
}

void drop_log(const std::filesystem::path& log) noexcept { ::unlink(log.c_str()); }

}  // namespace migrate::tool
