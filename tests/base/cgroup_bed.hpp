// Cgroups of a test's own, and processes in them that want all the time they can have.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace migrate {

/// Where groups can be made under a limit of processor time; nullopt where this host has no such
/// hierarchy of that version, or it is not for this user.
[[nodiscard]] std::optional<std::string> find_cpu_hierarchy(int version);

/// A group that goes away with its groups and processes.
class TestGroup {
 public:
  /// Below `above`; made by whoever may. `name` is made unique.
  TestGroup(const std::string& above, const std::string& name);
  ~TestGroup();
  TestGroup(const TestGroup&) = delete;
  TestGroup& operator=(const TestGroup&) = delete;

  [[nodiscard]] bool made() const { return made_; }
  [[nodiscard]] const std::string& path() const { return path_; }
  /// Ends what runs in it, and removes it now.
  void remove();

  /// Without the newline; "(none)" for a file that is not there.
  [[nodiscard]] std::string read(const std::string& file) const;
  /// False where the kernel refuses it.
  bool write(const std::string& file, const std::string& text) const;

  /// Starts a process in it that computes until it is ended.
  pid_t start_busy();

 private:
  std::string path_;
  bool made_ = false;
  std::vector<pid_t> busy_;
};

/// The processor time that `pid` gets while `wall` passes, as a share of it.
[[nodiscard]] double cpu_share(pid_t pid, std::chrono::milliseconds wall);

}  // namespace migrate
