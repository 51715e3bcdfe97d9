// CommandProcess: the migrate command as a child, with a deadline on everything.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "tools/migrate/report_json.hpp"

namespace migrate::tool::testing {

inline constexpr std::chrono::seconds kPatience{60};

class CommandProcess {
 public:
  /// Starts `migrate ARGUMENTS...` with `runtime` as its runtime folder.
  CommandProcess(const std::filesystem::path& runtime, std::vector<std::string> arguments);
  /// Kills it, if it is still there.
  ~CommandProcess();
  CommandProcess(const CommandProcess&) = delete;
  CommandProcess& operator=(const CommandProcess&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  void signal(int number) const;
  /// Its exit code; 128 + N after signal N, -1 when it does not end in time.
  int wait();
  [[nodiscard]] bool running();

  /// What it has written so far.
  [[nodiscard]] std::string out() const;
  [[nodiscard]] std::string err() const;
  /// Standard output as one JSON object; null when it is none.
  [[nodiscard]] Json json() const;

 private:
  std::filesystem::path out_;
  std::filesystem::path err_;
  pid_t pid_ = -1;
  int code_ = -1;
  bool ended_ = false;
};

/// False when `condition` does not come true in time.
bool wait_for(const std::function<bool()>& condition);

/// Whether guests can run here; tests of them skip otherwise.
[[nodiscard]] bool kvm_is_here();

}  // namespace migrate::tool::testing
