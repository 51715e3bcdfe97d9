// Folders and child processes of a test; gone when it ends.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>

#include "migrate/result.hpp"

namespace migrate::test {

class TempFolder {
 public:
  explicit TempFolder(std::filesystem::path where = std::filesystem::temp_directory_path()) {
    std::string path = (where / "migrate-test-XXXXXX").string();
    MIGRATE_CHECK(mkdtemp(path.data()) != nullptr);
    path_ = std::move(path);
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// A forked process. It runs `work(ready)`, where ready() tells the parent; what work returns is
/// its exit code. Killed by the destructor if it still lives.
class Child {
 public:
  explicit Child(const std::function<int(const std::function<void()>& ready)>& work) {
    int ends[2];
    MIGRATE_CHECK(pipe2(ends, O_CLOEXEC) == 0);
    pid_ = fork();
    MIGRATE_CHECK(pid_ >= 0);
    if (pid_ == 0) {
      close(ends[0]);
      const auto ready = [&] { MIGRATE_CHECK(write(ends[1], "r", 1) == 1); };
      _exit(work(ready));
    }
    close(ends[1]);
    ready_ = ends[0];
  }
  ~Child() {
    if (pid_ > 0) kill_hard();
    close(ready_);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// False when it did not get ready in ten seconds.
  [[nodiscard]] bool wait_ready() const {
    pollfd waits{ready_, POLLIN, 0};
    char byte = 0;
    return poll(&waits, 1, 10'000) == 1 && read(ready_, &byte, 1) == 1;
  }
  /// Its exit code; -1 when a signal ended it.
  int wait() {
    int status = 0;
    MIGRATE_CHECK(waitpid(std::exchange(pid_, -1), &status, 0) >= 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  void kill_hard() {
    kill(pid_, SIGKILL);
    wait();
  }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  int ready_ = -1;
};

/// Until a signal comes.
[[noreturn]] inline void sleep_for_ever() {
  while (true) pause();
}

}  // namespace migrate::test
