// HiddenAreas: which memory of a tree CRIU is kept from reading, and what has been read in its
// stead, shared with the shim.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string_view>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// Addresses of one process, [begin, end), page-aligned.
struct HiddenArea {
  pid_t pid = 0;  ///< As CRIU sees it.
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

/// A memfd that the shim in a CRIU maps: which areas it answers PAGEMAP_SCAN for with nothing
/// (hidden_layout.hpp). A list of no areas hides nothing. CRIU copies what is not hidden, and of
/// what is hidden it copies nothing, whether a restore can do without or not.
class HiddenAreas {
 public:
  static Result<HiddenAreas> create();
  /// Replaces the list, sorted or not, where areas may overlap; before the hook is answered after
  /// which CRIU reads memory. kInvalidArgument for what is no area, or too many; after an error
  /// nothing, or what was before, is hidden.
  Status set(std::span<const HiddenArea> areas);
  /// CRIU reads /proc/PID/smaps, which takes 14 ms a GiB of small pages: begun while it still
  /// seizes the tree, that is over when it asks. Between await_smaps() and end_smaps() the shim
  /// makes CRIU wait for the text of the process it asks for; afterwards, and without a text, it
  /// reads for itself. The processes must stand from before add_smaps() until CRIU has read.
  Status await_smaps();
  Status add_smaps(pid_t pid, std::string_view text);
  void end_smaps() noexcept;
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  explicit HiddenAreas(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
  std::uint64_t smaps_count_ = 0;
  std::uint64_t smaps_end_ = 0;  ///< Of the texts so far.
};

}  // namespace migrate::containers
