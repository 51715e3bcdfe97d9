// --detach: the parent stays until the child can be used, then leaves it in the background.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::tool {

/// The child's end. Until ready() the child has the terminal, and its errors go there.
class Detacher {
 public:
  /// Forks; must be called before any thread is started. In the parent: waits for the child's
  /// ready() or its end, then leaves the process with 0 or the child's exit code.
  static Result<Detacher> start();

  /// Lets the parent go. From here on standard error goes to `log`, the others nowhere.
  Status ready(const std::filesystem::path& log);

 private:
  explicit Detacher(Fd parent) : parent_(std::move(parent)) {}
  Fd parent_;
};

/// Removes the log of a detached process that has nothing to say any more.
void drop_log(const std::filesystem::path& log) noexcept;

}  // namespace migrate::tool
