// The runtime folder: where guests' control sockets, their locks and the journal live.
//
//   NAME.sock     control API of guest NAME, 0600; there exactly while the guest answers
//   NAME.lock     flock'd by the guest's process for as long as it lives
//   NAME.log      standard error of a detached process
//   SESSION.lanes where a listener hands over connections of a session (connection_passing.hpp)
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::tool {

/// [A-Za-z0-9._-], at most 64, not beginning with '.' or '-': a file name that needs no quoting and
/// hides nowhere.
[[nodiscard]] Status check_guest_name(std::string_view name);

/// The name of a guest, held: nobody else on this host can take it while this lives.
class NameLock {
 public:
  NameLock() = default;
  NameLock(NameLock&&) noexcept = default;
  NameLock& operator=(NameLock&& other) noexcept;
  ~NameLock() { release(); }

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] bool held() const { return lock_.valid(); }
  /// Removes the lock's file and lets go.
  void release() noexcept;

 private:
  friend class RuntimeDir;
  NameLock(std::string name, std::filesystem::path path, Fd lock);
  std::string name_;
  std::filesystem::path path_;
  Fd lock_;
};

class RuntimeDir {
 public:
  /// $MIGRATE_RUNTIME_DIR or /run/migrate; made with mode 0700 when it is missing. kPermission when
  /// others could write there.
  static Result<RuntimeDir> open();
  static Result<RuntimeDir> open(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path socket_path(std::string_view name) const;
  [[nodiscard]] std::filesystem::path log_path(std::string_view name) const;

  /// kNameTaken while another process has it.
  [[nodiscard]] Result<NameLock> take_name(const std::string& name) const;
  /// Whether a living process holds the name.
  [[nodiscard]] bool is_name_taken(const std::string& name) const;

  /// Guests with a control socket, sorted. Sockets whose process is gone are removed on the way.
  [[nodiscard]] std::vector<std::string> guests() const;

 private:
  explicit RuntimeDir(std::filesystem::path path) : path_(std::move(path)) {}
  [[nodiscard]] std::filesystem::path lock_path(std::string_view name) const;
  std::filesystem::path path_;
};

}  // namespace migrate::tool
