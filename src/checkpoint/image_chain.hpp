// ImageChain: an image and its parents, open to be read.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "checkpoint/image_format.hpp"
#include "migrate/image.hpp"
#include "wire/digest.hpp"

namespace migrate::checkpoint {

/// One file of a chain, its header, directory and trailer checked. Any thread.
class ImageFile {
 public:
  virtual ~ImageFile() = default;
  [[nodiscard]] virtual const std::string& path() const = 0;
  [[nodiscard]] virtual const ImageHeader& header() const = 0;
  [[nodiscard]] virtual const ImageDescription& description() const = 0;
  [[nodiscard]] virtual const Directory& directory() const = 0;
  [[nodiscard]] virtual const Trailer& trailer() const = 0;
  [[nodiscard]] virtual int fd() const = 0;  ///< For pread and mmap, through the page cache.
};

/// Where a page's content is.
struct FoundPage {
  const ImageFile* file = nullptr;  ///< nullptr: it reads as zero.
  PageLocation location;            ///< kRaw or kPacked in `file`.
  std::uint64_t hash = 0;
};

/// Opening reads headers, descriptions and directories only: its time does not depend on how much
/// memory the guest has. Index parts are read and checked when they are first needed, and kept.
/// Immutable but for that; any thread.
class ImageChain {
 public:
  /// Errors as inspect_image().
  static Result<std::shared_ptr<const ImageChain>> open(const std::string& path,
                                                        const ImageSearch& search = {});
  ~ImageChain();

  /// The image itself first.
  [[nodiscard]] std::span<const std::unique_ptr<ImageFile>> files() const;
  [[nodiscard]] const ImageFile& top() const { return *files().front(); }
  [[nodiscard]] const std::vector<Region>& regions() const {
    return top().description().guest.regions;
  }
  [[nodiscard]] const wire::PageDigest& digest() const;

  /// The device state, read and checked. At most 1 GiB.
  [[nodiscard]] Result<std::vector<Section>> state() const;

  /// Pages [first, first + count) of region `region`, which must be there; into.size() == count.
  [[nodiscard]] Status find(std::uint16_t region, std::uint64_t first,
                            std::span<FoundPage> into) const;
  /// Hashes only (that of a zero page where it is zero), from the image's own index.
  [[nodiscard]] Status hashes(std::uint16_t region, std::uint64_t first,
                              std::span<std::uint64_t> into) const;

 private:
  class Impl;
  explicit ImageChain(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Reads pages of a chain; one thread's. Every page's hash is checked (kIntegrity with file and
/// byte). Bytes that it has read from files are counted.
class ImageReader {
 public:
  static Result<std::unique_ptr<ImageReader>> create(std::shared_ptr<const ImageChain> chain);
  ~ImageReader();

  /// The pages that are not zero of [first, first + count), straight into memory, where `into` is
  /// the place of page `first`. Those that read as zero are left as they are. Long runs of pages
  /// that lie in the file as they are, are read in one call.
  Status read(std::uint16_t region, std::uint64_t first, std::uint64_t count, std::byte* into);

  /// Takes a page: `content` is kPageSize bytes, valid during the call; nullptr: zeros.
  using Take = std::function<Status(std::uint64_t page, const std::byte* content)>;
  /// Page `page`, and with it what costs little to have as well: its frame's other pages, as far as
  /// they are still the ones, or up to `pages_max` of the run that it lies in. `page` comes first.
  Status read_around(std::uint16_t region, std::uint64_t page, std::uint64_t pages_max,
                     const Take& take);

  [[nodiscard]] std::uint64_t bytes_read() const;

 private:
  class Impl;
  explicit ImageReader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// An image from a pipe, front to back: first what describes the guest, then blocks as they come.
/// One thread's; pages may be taken by others.
class ImageStreamReader {
 public:
  /// Reads header and description. Images with a parent: kUnsupported, with a remedy (flatten).
  /// `fd` stays the caller's, as does `cancel_fd`: once that is readable, this and read_all() end
  /// with kCancelled.
  static Result<std::unique_ptr<ImageStreamReader>> create(int fd, int cancel_fd = -1);
  ~ImageStreamReader();

  [[nodiscard]] const ImageHeader& header() const;
  [[nodiscard]] const ImageDescription& description() const;

  /// Where pages go and, for equal pages that are stored once, come from again.
  struct Memory {
    std::function<Status(std::uint16_t region, std::uint64_t page, const std::byte* content)> write;
    std::function<Status(std::uint16_t region, std::uint64_t page, std::byte* into)> read;
    std::function<Status(std::uint16_t region, std::uint64_t page)> zero;
  };
  struct End {
    std::vector<Section> state;
    Directory directory;
    std::uint64_t bytes = 0;
  };
  /// Reads to the trailer: then memory is as it was, each page's hash checked, and the digest of
  /// all of it is the image's. kIntegrity, kIo; kCancelled after interrupt().
  Result<End> read_all(const Memory& memory);
  /// Ends a read that waits. Any thread.
  void interrupt() noexcept;

 private:
  class Impl;
  explicit ImageStreamReader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace migrate::checkpoint
