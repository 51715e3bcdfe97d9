#include "bench/runtime_folder.hpp"

#include <fcntl.h>
#include <signal.h>  // NOLINT: of POSIX
#include <stdlib.h>  // NOLINT: mkdtemp
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "bench/measuring.hpp"

namespace migrate::bench {
namespace {

/// Waits until nobody holds the other end of `alive`, and removes `path`. In a child of a program
/// with threads: system calls only. A program of its own at once, or it would hold on to all that
/// is open here, guests' memory among it.
[[noreturn]] void keep(int alive, const char* path) {
  // Whoever ends the program by its group, or at the terminal, does not mean the one that tidies
  // up.
  ::setsid();
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) ::signal(signal, SIG_IGN);
  ::dup2(alive, STDIN_FILENO);
  ::execl("/bin/sh", "sh", "-c", "read -r _; rm -rf -- \"$0\"", path, static_cast<char*>(nullptr));
  ::_exit(1);
}

}  // namespace

RuntimeFolder::RuntimeFolder() {
  std::error_code failure;
  const bool tmpfs = std::filesystem::is_directory("/dev/shm", failure);
  path_ = std::string(tmpfs ? "/dev/shm" : "/tmp") + "/migrate-bench.XXXXXX";
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) give_up("cannot make a pipe");
  if (::mkdtemp(path_.data()) == nullptr) give_up("cannot make the folder " + path_);
  keeper_ = ::fork();
  if (keeper_ == 0) keep(ends[0], path_.c_str());
  ::close(ends[0]);
  alive_ = ends[1];
  if (keeper_ > 0) return;
  std::filesystem::remove_all(path_, failure);
  give_up("cannot start the keeper of " + path_);
}

RuntimeFolder::~RuntimeFolder() {
  ::close(alive_);
  while (::waitpid(keeper_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace migrate::bench
