// RuntimeFolder: where a measurement's journals are, gone with the program however that ends.
#pragma once

#include <sys/types.h>

#include <string>

namespace migrate::bench {

/// A folder on a tmpfs, where the machine has one at the usual place.
class RuntimeFolder {
 public:
  RuntimeFolder();
  ~RuntimeFolder();
  RuntimeFolder(const RuntimeFolder&) = delete;
  RuntimeFolder& operator=(const RuntimeFolder&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
  int alive_ = -1;  // Closed when the program is gone, and then the keeper removes the folder.
  pid_t keeper_ = -1;
};

}  // namespace migrate::bench
