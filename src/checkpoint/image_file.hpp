// OpenImage: one file of a chain, open; its index by parts, read when they are needed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/mutex.hpp"
#include "checkpoint/image_chain.hpp"
#include "checkpoint/image_format.hpp"
#include "wire/digest.hpp"

namespace migrate::checkpoint {

/// `error` with the file that it is about in front.
[[nodiscard]] Error in_file(const std::string& path, Error error);
/// kIntegrity: the file, the byte, and what is wrong there.
[[nodiscard]] Error damaged(const std::string& path, std::uint64_t at, const std::string& what);
/// All of `into` from byte `at` of `file` on. kIntegrity where the file ends before, kIo.
Status read_at(const ImageFile& file, std::uint64_t at, std::span<std::byte> into);

/// A regular file, open to be read; kInvalidArgument for anything else, and no wait for a FIFO's
/// other end.
struct PlainFile {
  Fd fd;
  std::uint64_t bytes = 0;
};
Result<PlainFile> open_plain_file(const std::string& path);

/// Any thread.
class OpenImage final : public ImageFile {
 public:
  /// Reads header, trailer, description and directory.
  static Result<std::unique_ptr<OpenImage>> open(const std::string& path);
  ~OpenImage() override;

  [[nodiscard]] const std::string& path() const override { return path_; }
  [[nodiscard]] const ImageHeader& header() const override { return header_; }
  [[nodiscard]] const ImageDescription& description() const override { return description_; }
  [[nodiscard]] const Directory& directory() const override { return directory_; }
  [[nodiscard]] const Trailer& trailer() const override { return trailer_; }
  [[nodiscard]] int fd() const override { return file_.fd.get(); }
  /// For preadv past the page cache, into whole pages of memory; -1 where the file system has no
  /// such thing.
  [[nodiscard]] int direct_fd() const { return direct_fd_.get(); }
  /// Whether most of these bytes are in the page cache; true where nobody knows.
  [[nodiscard]] bool is_cached(std::uint64_t at, std::uint64_t bytes) const;

  [[nodiscard]] const wire::Hasher& hasher() const { return hasher_; }
  [[nodiscard]] const wire::PageDigest& digest() const { return *digest_; }

  /// A part of the index. Without entries: all of its pages read as zero, or are as in the parent.
  struct Part {
    std::uint64_t where = Directory::kAllZero;
    std::span<const IndexEntry> entries;
  };
  /// Part `part` of region `region`, which must be there. The entries live as long as this.
  Result<Part> part(std::uint16_t region, std::uint64_t part) const;
  /// How many pages it has.
  [[nodiscard]] std::uint64_t part_pages(std::uint16_t region, std::uint64_t part) const;

  /// The head of the block at `at`, which must lie between the description and the directory.
  Result<BlockHead> head(std::uint64_t at) const;
  /// All state sections, checked.
  Result<std::vector<Section>> state() const;

 private:
  explicit OpenImage(std::string path) : path_(std::move(path)) {}
  void open_past_cache();
  Status read_ends();
  Status read_description();
  Status read_directory();
  Result<std::unique_ptr<IndexEntry[]>> read_part(std::uint16_t region, std::uint64_t part,
                                                  const Directory::Part& listed) const;
  Status check_entries(std::span<const IndexEntry> entries, std::uint64_t at) const;

  std::string path_;
  PlainFile file_;
  Fd direct_fd_;
  void* mapping_ = nullptr;  // Never touched: only asked for what of it is in the page cache.
  ImageHeader header_;
  ImageDescription description_;
  Directory directory_;
  Trailer trailer_;
  wire::Hasher hasher_;
  std::unique_ptr<wire::PageDigest> digest_;
  std::uint64_t content_at_ = 0;  // Where blocks begin that are not the description.

  // By region, by part; set once, by whoever has read it first.
  mutable std::vector<std::vector<std::atomic<const IndexEntry*>>> parts_;
};

}  // namespace migrate::checkpoint
