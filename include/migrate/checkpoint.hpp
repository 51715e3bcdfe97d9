// Checkpointer: writes a guest to an image, while it stands or while it runs on.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "migrate/clock.hpp"
#include "migrate/guest.hpp"
#include "migrate/image.hpp"
#include "migrate/options.hpp"
#include "migrate/progress.hpp"
#include "migrate/result.hpp"

namespace migrate {

struct CheckpointOptions {
  /// The image, which appears there whole or not at all; what was there stays until then. Empty:
  /// `stream`.
  std::string path;
  /// A descriptor that is written to in one go, a pipe say; stays the caller's.
  int stream = -1;
  /// The guest runs on while its memory is saved as it was at one instant; it stands only for its
  /// device state. Needs userfaultfd write protection of all memory, mapped in this process:
  /// kUnsupported where there is none. Otherwise it stands until the image is written.
  bool live = false;
  /// An earlier image of this guest: only what is not in there is written. Its path stands in the
  /// new one.
  std::string base;
  ImageSearch search;  ///< For the base's parents.
  /// The tracker goes on afterwards, so that the next image with this one as its base need not read
  /// memory that was not written. Costs the guest what dirty logging costs.
  bool keep_tracking = false;
  /// The guest stays paused afterwards: it is not going to run on.
  bool leave_paused = false;
  unsigned lanes = 0;  ///< Threads that read, hash and pack pages; 0: by processors.
  CompressionChoice compress;
};

/// How a checkpoint went. Times in milliseconds of wall time.
struct CheckpointReport {
  Outcome outcome = Outcome::kFailed;  ///< kDone, kFailed, kRefused, kCancelled.
  std::string path;                    ///< Empty for a stream.
  std::string id, parent;              ///< Of the image; parent empty for a full one.
  bool live = false;
  /// How it was known what is not in the base: "" (full), "tracker", "hashes".
  std::string changed_by;
  /// For which the guest stood; nullopt when it was paused anyhow, or stays so.
  std::optional<double> pause_ms;
  double total_ms = 0;
  struct {
    double setup = 0;  ///< Before the pause: opening, arming.
    double quiesce = 0, arm = 0, state_save = 0, resume = 0;  ///< Of the pause, live.
    double memory = 0;                                        ///< Saving pages.
    double publish = 0;  ///< Index, flush to the disk, the name.
  } phases_ms;
  struct {
    std::uint64_t total = 0, stored = 0, zero = 0, duplicate = 0, parent = 0;
    std::uint64_t copied = 0;  ///< Live: saved because the guest was about to write them.
  } pages;
  struct {
    std::uint64_t guest = 0, file = 0;
  } bytes;
  /// Live: how long a write of the guest waited for its page to be saved.
  struct {
    std::uint64_t count = 0;
    double p50_us = 0, p99_us = 0, max_us = 0;
  } faults;
  double cpu_s = 0;
  std::optional<Error> error;
};

/// Writes checkpoints of one guest, which it holds meanwhile. One thread at a time, but cancel();
/// `observer` and `clock` stay the caller's and outlive this.
///
/// Whatever fails, the guest is as it was, what was at `path` before is there, and nothing else is
/// left behind.
class Checkpointer {
 public:
  explicit Checkpointer(std::unique_ptr<SourceGuest> guest, Observer* observer = nullptr,
                        Clock& clock = system_clock());
  /// Hands nothing back: see take_guest().
  ~Checkpointer();
  Checkpointer(const Checkpointer&) = delete;
  Checkpointer& operator=(const Checkpointer&) = delete;

  /// Blocks until the image is written, or has failed; all threads of it have ended then.
  CheckpointReport take(const CheckpointOptions& options);

  /// Ends a take() that is under way; false when there is none, or the image has its name by now.
  /// Any thread.
  bool cancel() noexcept;

  /// The id of the image since which writes are tracked; empty when they are not.
  [[nodiscard]] std::string tracking_since() const;

  /// Ends tracking and gives the guest back. Nothing can be done with this afterwards.
  [[nodiscard]] std::unique_ptr<SourceGuest> take_guest();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace migrate
