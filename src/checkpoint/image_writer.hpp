// ImageWriter: pages and state into an image.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "checkpoint/image_chain.hpp"
#include "checkpoint/image_format.hpp"
#include "checkpoint/image_output.hpp"
#include "migrate/image.hpp"
#include "migrate/options.hpp"

namespace migrate::checkpoint {

/// A page that is never added reads as zero, or is as in the base. One that is added again holds as
/// it was added last, if the first call had returned before.
class ImageWriter {
 public:
  struct Options {
    CompressionChoice compress;
    /// For an incremental image; the header's parent and secret are its. Its regions must be the
    /// description's, but for those of a container: kIncompatible when not. Kept until this goes.
    std::shared_ptr<const ImageChain> base;
  };
  /// Writes header and description.
  static Result<std::unique_ptr<ImageWriter>> create(std::unique_ptr<ImageOutput> output,
                                                     const ImageHeader& header,
                                                     const ImageDescription& description,
                                                     Options options);
  ~ImageWriter();

  /// One thread's. Goes before the writer.
  class Lane {
   public:
    virtual ~Lane() = default;
    /// Pages of region `region` (its index), `page` counted from its first; `content` kPageSize
    /// bytes, which are the caller's again when this returns. Checks for zeros, hashes, compares
    /// with the base and with equal pages. Different lanes never have the same page at a time.
    virtual Status add(std::uint16_t region, std::uint64_t page, const std::byte* content) = 0;
    /// The page is as it was before anything was written to it.
    virtual Status add_zero(std::uint16_t region, std::uint64_t page) = 0;
    /// Writes what has been added.
    virtual Status flush() = 0;
  };
  Result<std::unique_ptr<Lane>> make_lane();

  /// The device state, once, any time before finish(), beside lanes.
  Status state(std::span<const Section> sections);

  struct Written {
    Directory::Counts pages;
    std::uint64_t digest = 0;
    std::uint64_t file_bytes = 0;
  };
  /// All lanes have flushed and are gone: writes index, directory and trailer.
  Result<Written> seal();
  /// After that: see ImageOutput::publish().
  Status publish();
  /// Both.
  Result<Written> finish();
  /// Ends all waiting; see ImageOutput::interrupt(). Any thread.
  void interrupt() noexcept;

 private:
  class Impl;
  explicit ImageWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// A new image's header: random id, now, and the secret of `base` or a random one.
Result<ImageHeader> new_header(const ImageChain* base);
/// This host in words for ImageDescription::host.
[[nodiscard]] std::string host_text();

}  // namespace migrate::checkpoint
