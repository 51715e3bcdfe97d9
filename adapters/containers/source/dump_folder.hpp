// DumpFolder: the folder of one dump's images, and how they travel as sections.
#pragma once

#include <string>
#include <vector>

#include "base/fd.hpp"
#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// Removed with all in it by the destructor.
class DumpFolder {
 public:
  /// A new one in `parent`, mode 0700. kInvalidArgument where `parent` is no folder.
  static Result<DumpFolder> make(const std::string& parent);
  DumpFolder(DumpFolder&& other) noexcept = default;
  DumpFolder& operator=(DumpFolder&& other) noexcept;
  ~DumpFolder() { remove(); }

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] const std::string& path() const { return path_; }
  /// Of the image files, in order.
  [[nodiscard]] Result<std::vector<std::string>> files() const;
  /// All image files as sections.
  Status send(StateWriter& writer) const;

 private:
  DumpFolder(std::string path, Fd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  void remove() noexcept;
  Status send_file(const std::string& name, StateWriter& writer) const;

  std::string path_;
  Fd fd_;
};

}  // namespace migrate::containers
