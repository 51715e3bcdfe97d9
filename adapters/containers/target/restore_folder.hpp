// RestoreFolder: CRIU's image files of one restore, as they came in the tree's state.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adapters/containers/tree_state.hpp"
#include "base/fd.hpp"
#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

class RestoreFolder {
 public:
  /// A fresh one in `parent`, for this user's eyes only.
  static Result<std::unique_ptr<RestoreFolder>> create(const std::string& parent);
  /// With all that is in it.
  ~RestoreFolder();
  RestoreFolder(const RestoreFolder&) = delete;
  RestoreFolder& operator=(const RestoreFolder&) = delete;

  /// What the state says of the tree's memory.
  struct Spaces {
    std::vector<SpaceOwner> owners;
    std::vector<EmptyArea> empty;
  };
  /// Writes the image files, and gives back whose memory the address spaces are. kProtocol for
  /// sections that no source sends; kNoMemory where they have no room.
  Result<Spaces> take(StateReader& reader);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] int fd() const { return fd_.get(); }
  /// All of a file; nullopt where there is none.
  [[nodiscard]] Result<std::optional<std::vector<std::byte>>> read(const std::string& name) const;

 private:
  RestoreFolder(std::string path, Fd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  Status write(const std::string& name, StateReader& reader);

  std::string path_;
  Fd fd_;
};

}  // namespace migrate::containers
