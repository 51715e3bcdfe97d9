// PartialFile: a file that is being written under a temporary name, until it takes its own.
#pragma once

#include <cstdint>
#include <string>

#include "base/fd.hpp"
#include "checkpoint/file_calls.hpp"
#include "migrate/result.hpp"

namespace migrate::checkpoint {

/// A file `.NAME.<16 hexadecimal digits>.partial` beside the file NAME that it is to become, locked
/// (flock) as long as it is open: one that nobody locks is the leftover of a process that was
/// killed. One thread's.
class PartialFile {
 public:
  /// Removes leftovers of `path`, and makes the file, empty, mode 0600. Errors with a remedy.
  static Result<PartialFile> create(const std::string& path, FileCalls& calls);
  PartialFile(PartialFile&& other) noexcept;
  PartialFile& operator=(PartialFile&&) = delete;
  /// Removes the file unless it was published.
  ~PartialFile();

  [[nodiscard]] int fd() const { return file_.get(); }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const std::string& folder() const { return folder_path_; }
  /// Makes its content last, then gives it its name in one step, and makes that last. On failure
  /// what had the name before has it still.
  Status publish();

 private:
  PartialFile(std::string path, FileCalls& calls);
  Status open_folder();
  Status check_place();
  void remove_leftovers();
  /// False: there is such a file already, or somebody has taken it for a leftover.
  Result<bool> make_file();
  Error failed(const std::string& what, int sys_errno) const;
  [[nodiscard]] int sync(int fd) const;
  Status take_name();
  Status put_back(bool replaced, int sys_errno);

  FileCalls* calls_;
  std::string path_;
  std::string folder_path_;
  std::string name_;
  std::string partial_;  // Empty: none is left to be removed.
  Fd folder_;
  Fd file_;
};

/// What a write to a file failed with, in words, with a remedy. `bytes_left` is how many bytes it
/// had still to write.
[[nodiscard]] Error write_error(const std::string& path, const std::string& folder, int sys_errno,
                                std::uint64_t bytes_left);

}  // namespace migrate::checkpoint
