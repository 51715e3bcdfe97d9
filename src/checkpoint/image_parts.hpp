// ImageParts: what the lanes of an image that is being written share.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/mutex.hpp"
#include "checkpoint/duplicates.hpp"
#include "checkpoint/image_base.hpp"
#include "checkpoint/image_output.hpp"
#include "checkpoint/image_writer.hpp"
#include "checkpoint/page_index.hpp"
#include "wire/digest.hpp"

namespace migrate::checkpoint {

/// Any thread.
struct ImageParts {
  ImageParts(std::unique_ptr<ImageOutput> to, const ImageHeader& made_header,
             std::span<const Region> regions, std::uint64_t pages,
             const ImageWriter::Options& options, const wire::Hasher& other_hasher)
      : output(std::move(to)),
        header(made_header),
        compress(options.compress),
        hasher(made_header.hasher()),
        other(other_hasher),
        digest(hasher),
        base(options.base ? std::make_shared<const ImageBase>(
                                options.base, std::vector<Region>(regions.begin(), regions.end()))
                          : nullptr),
        index(regions, base, digest.zero_hash()),
        duplicates(pages) {}

  const std::unique_ptr<ImageOutput> output;
  const ImageHeader header;
  const CompressionChoice compress;
  const wire::Hasher hasher;
  const wire::Hasher other;  ///< Of a secret of its own, for `duplicates`.
  const wire::PageDigest digest;
  const std::shared_ptr<const ImageBase> base;  ///< May be null.
  PageIndex index;
  Duplicates duplicates;
  /// Held while a batch makes sure that it has the latest of its pages and gets its place: in the
  /// file a page's later content comes after the earlier one, as a reader of a pipe wants it.
  Mutex order;
  std::atomic<std::uint64_t> blocks{0};
  std::atomic<std::uint64_t> memory_digest{0};
  std::atomic<std::uint32_t> lanes{0};
};

/// Staged pages to blocks and to their place; one thread's.
Result<std::unique_ptr<ImageWriter::Lane>> make_page_lane(ImageParts& parts);

}  // namespace migrate::checkpoint
