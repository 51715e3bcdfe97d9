// Checkpoint images as files: what is in one, whether it is whole, and a chain made one file. The
// format: docs/image-format.md.
//
// All calls block, and may be made from any thread. None touches a guest.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "migrate/guest.hpp"
#include "migrate/options.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// Where an image's parents are looked for: `parents` first, each by its id, then the path that the
/// image names (relative to its own folder), then that path's last part in its own folder.
struct ImageSearch {
  std::vector<std::string> parents;  ///< Paths.
};

/// One file of a chain.
struct ImageFileInfo {
  std::string path;
  std::string id;                ///< 32 hexadecimal digits.
  std::string parent;            ///< The same; empty for a full image.
  std::uint64_t created_ns = 0;  ///< Since 1970.
  std::string host;              ///< What it was taken on.
  std::uint64_t file_bytes = 0;
  /// Pages of 4096 bytes: whose content is in the file, that are zero, that are a stored one's
  /// equal, that are as in the parent.
  std::uint64_t stored_pages = 0, zero_pages = 0, duplicate_pages = 0, parent_pages = 0;
  std::uint64_t state_bytes = 0;
  std::uint64_t digest = 0;  ///< Of all memory, as a migration compares it.
};

struct ImageInfo {
  std::vector<ImageFileInfo> chain;  ///< The image itself first, then its parent, and so on.
  GuestDescription guest;
  RunState run_state = RunState::kRunning;  ///< What the guest did when it was taken.
  struct SectionSize {
    SectionInfo info;
    std::uint64_t bytes = 0;
  };
  std::vector<SectionSize> sections;  ///< Of the device state.
};

/// Reads what describes an image and its chain, no page. kNotFound naming a parent that is missing,
/// kIntegrity for damage, kIncompatible for a parent that is another image.
[[nodiscard]] Result<ImageInfo> inspect_image(const std::string& path,
                                              const ImageSearch& search = {});

struct ImageVerification {
  std::uint64_t files = 0;
  std::uint64_t pages = 0;  ///< Whose content was read and hashed; zero ones need none.
  std::uint64_t bytes = 0;  ///< Of the files.
};
/// Reads all of an image and of its parents and compares every hash there is, the digest of all
/// memory included. kIntegrity, naming the file and the byte, for the first damage found. `threads`
/// 0: one a processor.
[[nodiscard]] Result<ImageVerification> verify_image(const std::string& path,
                                                     const ImageSearch& search = {},
                                                     unsigned threads = 0);

struct ImageWritten {
  std::string id;
  std::uint64_t file_bytes = 0;
  std::uint64_t stored_pages = 0;
};
/// Writes the chain that ends with `path` as one full image to `into`, which appears whole or not
/// at all; every page's hash is checked on the way. It keeps its id: what is based on it stays so.
/// `into` may be `path`.
[[nodiscard]] Result<ImageWritten> flatten_image(const std::string& path, const std::string& into,
                                                 const ImageSearch& search = {},
                                                 CompressionChoice compress = {},
                                                 unsigned threads = 0);

}  // namespace migrate
