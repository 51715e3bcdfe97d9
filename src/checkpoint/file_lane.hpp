// FileLane: one thread's way into an image's file, a few writes under way at a time.
#pragma once

#include <liburing.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.hpp"
#include "checkpoint/aligned_buffer.hpp"
#include "checkpoint/file_calls.hpp"
#include "checkpoint/image_output.hpp"

namespace migrate::checkpoint {

/// What the lanes of a file share. Any thread.
class FileProgress {
 public:
  FileProgress() = default;
  ~FileProgress();
  FileProgress(const FileProgress&) = delete;
  FileProgress& operator=(const FileProgress&) = delete;

  /// The first failure is what publish() tells.
  void fail(const Error& error) MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] std::optional<Error> failure() const MIGRATE_EXCLUDES(mutex_);

  /// Rings of lanes that have gone are the next ones'.
  [[nodiscard]] std::optional<io_uring> take_ring() MIGRATE_EXCLUDES(mutex_);
  void keep_ring(const io_uring& ring) MIGRATE_EXCLUDES(mutex_);

  std::atomic<std::uint64_t> reserved{0};
  std::atomic<std::uint64_t> written{0};
  std::atomic<bool> interrupted{false};

 private:
  mutable Mutex mutex_;
  std::optional<Error> failure_ MIGRATE_GUARDED_BY(mutex_);
  std::vector<io_uring> rings_ MIGRATE_GUARDED_BY(mutex_);
};

/// The file that lanes write to; all of it outlives them.
struct LaneFile {
  FileCalls& calls;
  FileProgress& progress;
  int fd = -1;
  std::string path;
  std::string folder;
  bool direct = false;
};

class FileLane final : public ImageOutput::Lane {
 public:
  FileLane(const LaneFile& file, bool uring);
  ~FileLane() override;

  Result<std::span<std::byte>> buffer(std::size_t bytes) override;
  Status write(std::uint64_t offset, std::size_t bytes) override;
  Status flush() override;

 private:
  // A disk that takes 1 MiB at a time is at its rate with two under way; two more for a lane whose
  // next block takes longer.
  static constexpr std::size_t kSlots = 4;

  struct Slot {
    AlignedBuffer memory;
    bool busy = false;
    std::uint64_t offset = 0;
    std::size_t bytes = 0;
    std::size_t done = 0;
  };

  void set_up_ring();
  Status write_here(Slot& slot);
  Status submit(Slot& slot);
  /// Waits for one write to end, and starts the rest of one that was cut short.
  Status reap();
  /// What `result`, a count or an errno below 0, says of a write: true when all is written.
  Result<bool> take(Slot& slot, std::int64_t result);
  Status check() const;
  Error fail(int sys_errno, const Slot& slot);

  const LaneFile& file_;
  bool uring_;
  io_uring ring_{};
  bool ring_up_ = false;
  bool entry_left_ = false;  ///< The ring has one that was not taken; nothing more is submitted.
  std::array<Slot, kSlots> slots_;
  std::size_t latest_ = kSlots;
  std::size_t busy_ = 0;
  std::optional<Error> failure_;
};

}  // namespace migrate::checkpoint
