// Folders that follow a process tree: copied by rsync before it is sent, and what has changed since
// once more while it stands.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate::tool {

struct SyncedFolder {
  std::string from;  ///< A folder of this host.
  std::string to;    ///< As rsync(1) understands it: a folder, HOST:FOLDER, rsync://...
};
/// "FROM=TO".
[[nodiscard]] Result<SyncedFolder> parse_synced_folder(const std::string& text);

/// `source`, whose describe() copies `folders` first and whose relinquish() copies them again. A
/// copy that fails fails the call; the second one within `limit`, since the tree stands and its
/// target waits.
[[nodiscard]] std::unique_ptr<SourceGuest> make_synced_source(std::unique_ptr<SourceGuest> source,
                                                              std::vector<SyncedFolder> folders,
                                                              std::chrono::milliseconds limit);

}  // namespace migrate::tool
