// Restore: a guest from an image, with all of its memory first or while its memory follows.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "migrate/clock.hpp"
#include "migrate/guest.hpp"
#include "migrate/image.hpp"
#include "migrate/progress.hpp"
#include "migrate/result.hpp"

namespace migrate {

enum class RestoreMode : std::uint8_t {
  kEager = 0,   ///< All memory is there before the guest starts.
  kLazy = 1,    ///< The guest starts at once; what it touches is read first, then the rest.
  kMapped = 2,  ///< Pages that lie in the file as they are are mapped from it, private to the
                ///< guest: guests of one image share them. The rest is read before it starts.
                ///< What is mapped is not checked (verify_image() first), and the files must stay
                ///< as they are: a guest gets what is written there, and SIGBUS past their end.
                ///< Needs private memory of this process in pages of 4096 bytes.
};
[[nodiscard]] std::string_view to_string(RestoreMode mode);

struct RestoreOptions {
  std::string path;
  int stream = -1;  ///< Instead of a path: read in one go, a pipe say; full images, eager only.
  ImageSearch search;
  RestoreMode mode = RestoreMode::kEager;
  /// The guest stands where it was running.
  bool paused = false;
  unsigned lanes = 0;  ///< Threads that read; 0: by processors.
  /// Lazy: which pages the guest touches, in their order, goes into this file with their content,
  /// once `record_for` has passed since the start.
  std::string record;
  std::chrono::milliseconds record_for{2'000};
  /// Lazy: such a file of this image; what stands in there is in memory before the guest asks.
  std::string prefetch;
  /// Lazy: whether what nobody touches is read, too. Without it, the image's files are needed for
  /// as long as the guest runs, and run() returns once what is recorded or prefetched is done.
  bool background = true;
};

/// How a restore went. Times in milliseconds of wall time since run() was called.
struct RestoreReport {
  Outcome outcome = Outcome::kFailed;  ///< kDone, kFailed, kRefused, kCancelled, kLost.
  std::string path, id;
  std::string mode;
  std::string name;       ///< The guest's, when the image was taken.
  double started_ms = 0;  ///< Until its first instruction could be executed.
  double total_ms = 0;    ///< Until all of its memory was there.
  struct {
    double open = 0, prepare = 0, memory = 0, state_load = 0, start = 0;
  } phases_ms;
  struct {
    std::uint64_t total = 0, stored = 0, zero = 0, duplicate = 0, mapped = 0;
    std::uint64_t demand = 0, prefetched = 0, background = 0, recorded = 0;
  } pages;
  struct {
    std::uint64_t guest = 0, file = 0;  ///< file: read from the image's files.
  } bytes;
  struct {
    std::uint64_t count = 0, local = 0;
    double p50_us = 0, p99_us = 0, max_us = 0;
    std::vector<double> stall_ms;  ///< By vCPU.
  } faults;
  std::string digest = "off";  ///< "equal", "unequal" or "off" (mapped pages are not read).
  double cpu_s = 0;
  std::optional<Error> error;
};

struct RestoreResult {
  Outcome outcome = Outcome::kFailed;
  std::unique_ptr<TargetGuest> guest;  ///< Started on kDone and kLost; discarded otherwise.
  RestoreReport report;
  /// Of a lazy restore whose image could not be read any more after the start (kLost): the guest
  /// stands, and who touches what is missing waits for as long as this is kept. Also of one without
  /// `background`, where it serves the guest's faults, and the host, which must outlive it, is told
  /// by one of its threads when a page cannot be read. Drop it when the guest has ended, before its
  /// memory is unmapped: that is inaccessible then, so that what still waits gets an error.
  std::shared_ptr<void> waiting_memory;
};

/// One restore. Use once. `host`, `observer` and `clock` stay the caller's and outlive run().
class Restore {
 public:
  class Host {
   public:
    virtual ~Host() = default;
    /// All is there that the guest needs to start, and nothing runs yet: its control socket may
    /// answer from now on. An error ends the restore.
    virtual Status open(const GuestDescription& guest) = 0;
    /// The guest runs, or stands, here.
    virtual void started() = 0;
    enum class Memory : std::uint8_t { kFollows, kComplete, kLost };
    /// Lazy: how its memory is getting on. After kLost the guest must be paused.
    virtual void on_memory(Memory memory, const std::string& reason) = 0;
  };

  Restore(std::unique_ptr<TargetGuest> guest, RestoreOptions options, Host& host,
          Observer* observer = nullptr, Clock& clock = system_clock());
  ~Restore();
  Restore(const Restore&) = delete;
  Restore& operator=(const Restore&) = delete;

  /// Blocks until the guest runs and all of its memory is here, or something has failed.
  RestoreResult run();

  /// Gives up before the start; false afterwards. Any thread.
  bool cancel() noexcept;
  /// The guest has ended: its memory need not come any more. What had not come is inaccessible
  /// when run() returns. Any thread.
  void guest_ended() noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace migrate
