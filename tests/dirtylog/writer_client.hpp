// Writer: a process of its own (writer_process.cc) that does as it is told.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "migrate/memory.hpp"

namespace migrate::testing {

inline constexpr std::chrono::seconds kPatience{30};

/// False when `condition` does not come true in time.
bool wait_for(const std::function<bool()>& condition);

class Writer {
 public:
  Writer();
  /// Kills it, if it is still there.
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }

  /// Gives a command and its answer; "" when none comes in time.
  std::string ask(const std::string& command);
  std::uint64_t number(const std::string& command);
  /// The two halves of ask().
  void tell(const std::string& command);
  std::string answer();

  /// Of a page's address.
  std::uint64_t map(std::uint64_t pages) { return number("map " + std::to_string(pages)); }
  void write(std::uint64_t address, std::uint64_t pages, std::uint64_t value);

  void send_data(char byte) const;
  void signal(int number) const;
  /// Waits until the main thread is in system call `number`, and asleep.
  [[nodiscard]] bool waits_in(long number) const;
  /// State as in /proc/PID/status.
  [[nodiscard]] char state() const;
  /// Stops all its threads (SIGSTOP), until let_go(). False when they do not stop in time.
  [[nodiscard]] bool hold() const;
  void let_go() const;
  void end();

  /// Its memory as it is, straight from /proc/PID/mem.
  [[nodiscard]] std::vector<std::byte> memory(std::uint64_t address, std::uint64_t pages) const;
  [[nodiscard]] std::size_t descriptors() const;
  [[nodiscard]] std::string maps() const;

 private:
  pid_t pid_ = -1;
  Fd socket_;
  Fd data_;
  Fd memory_;
};

}  // namespace migrate::testing
