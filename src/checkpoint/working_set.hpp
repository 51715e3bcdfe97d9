// A working set: which pages of an image a guest touched, in their order, with their content. See
// "Working set" in docs/image-format.md.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "checkpoint/image_chain.hpp"
#include "migrate/result.hpp"

namespace migrate::checkpoint {

struct TouchedPage {
  std::uint16_t region = 0;
  std::uint64_t page = 0;  ///< From the region's first.
  friend bool operator==(const TouchedPage&, const TouchedPage&) = default;
};

/// Writes the file, which appears whole or not at all; content is read from the image and checked.
Status write_working_set(const std::shared_ptr<const ImageChain>& chain,
                         std::span<const TouchedPage> touched, const std::string& path);

/// An open file, its head and its table checked; content is checked as it is read. Any thread.
class WorkingSet {
 public:
  struct Entry {
    TouchedPage page;
    bool zero = false;
    std::uint64_t hash = 0;
    std::uint64_t at = 0;  ///< Where its content is in the file.
  };
  /// kIncompatible for another image's, kIntegrity for a damaged one, kNotFound, kIo.
  static Result<WorkingSet> open(const std::string& path, const ImageChain& chain);

  [[nodiscard]] const std::vector<Entry>& entries() const { return entries_; }
  /// The content of the entries of [first, first + count) that are not zero, one after the other.
  /// kIntegrity unless all of it has its hashes. `into` has room for count pages.
  Status read(std::size_t first, std::size_t count, const wire::PageDigest& digest,
              std::byte* into) const;
  /// The kernel begins to read it now.
  void read_ahead() const;

 private:
  WorkingSet(std::string path, Fd file) : path_(std::move(path)), file_(std::move(file)) {}
  [[nodiscard]] Error damaged(std::uint64_t at, const std::string& what) const;
  Status read_table(const ImageChain& chain);
  Status pread_all(std::uint64_t at, std::span<std::byte> into) const;

  std::string path_;
  Fd file_;
  std::uint64_t content_at_ = 0, content_end_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace migrate::checkpoint
