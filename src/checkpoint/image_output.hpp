// ImageOutput: where an image's blocks go, a file that appears whole or not at all, or a stream.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::checkpoint {

/// Blocks lie side by side from byte 0 on; whoever writes one has reserved its place. Dropped
/// before publish() has succeeded, it leaves nothing behind, and what was there before is there.
class ImageOutput {
 public:
  /// One thread's way to write: memory to make blocks in, written while the next is made.
  class Lane {
   public:
    virtual ~Lane() = default;
    /// Memory for a block, aligned to 4096, at least `bytes` long: waits until an earlier write has
    /// left some free, and says what became of it. Valid until the next write().
    virtual Result<std::span<std::byte>> buffer(std::size_t bytes) = 0;
    /// Writes the first `bytes` (a multiple of 4096) of the latest buffer to `offset`.
    virtual Status write(std::uint64_t offset, std::size_t bytes) = 0;
    /// Waits until all is written.
    virtual Status flush() = 0;
  };
  virtual ~ImageOutput() = default;
  /// Any thread. The lane must go before this.
  virtual Result<std::unique_ptr<Lane>> make_lane() = 0;
  /// Reserves the place of the next block. Any thread. What is reserved must be written: in a
  /// stream, later blocks wait for it.
  virtual std::uint64_t reserve(std::uint64_t bytes) = 0;
  /// All that was reserved has been written: makes it last, and gives it its name. kIo with the
  /// errno: nothing has changed there. One thread, once.
  virtual Status publish() = 0;
  /// Ends all that waits (in a stream, for a reader or for an earlier block); writes fail with
  /// kCancelled from then on. Any thread.
  virtual void interrupt() noexcept = 0;
};

struct FileOutputOptions {
  /// Past the page cache (O_DIRECT) where the file system can: otherwise as usual.
  bool direct = true;
  /// io_uring where the kernel has it, else pwrite.
  bool uring = true;
};
/// `path` appears (or is replaced) with publish(): a temporary name in its folder, fsync, rename,
/// fsync of the folder. Where the folder does not exist, is not writable, or `path` is no regular
/// file: an error with a remedy. Leftovers of processes that were killed are removed.
Result<std::unique_ptr<ImageOutput>> make_file_output(const std::string& path,
                                                      const FileOutputOptions& options = {});
/// `fd` stays the caller's; publish() only ends it. kIo when the reader has gone (no SIGPIPE is
/// raised).
Result<std::unique_ptr<ImageOutput>> make_stream_output(int fd);

}  // namespace migrate::checkpoint
