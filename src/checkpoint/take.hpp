// Take: one checkpoint, from the look at the guest to the image's name.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.hpp"
#include "checkpoint/image_writer.hpp"
#include "checkpoint/live_memory.hpp"
#include "checkpoint/save_lanes.hpp"
#include "checkpoint/standing_memory.hpp"
#include "checkpoint/write_log.hpp"
#include "migrate/checkpoint.hpp"

namespace migrate::checkpoint {

/// Says to whoever works on a checkpoint that it is to end. Any thread.
class TakeStop {
 public:
  /// False once the image has its name, or nothing could be ended any more.
  bool cancel() noexcept MIGRATE_EXCLUDES(mutex_);
  /// Called by cancel() from now on, and at once when that was before; nullptr: no more.
  void on_cancel(std::function<void()> call) MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] bool cancelled() const { return cancelled_.load(); }
  /// kCancelled once it is.
  [[nodiscard]] Status check() const;
  /// It is too late to cancel; false when that was done before.
  void close() MIGRATE_EXCLUDES(mutex_);

 private:
  std::atomic<bool> cancelled_{false};
  Mutex mutex_;
  bool closed_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::function<void()> call_ MIGRATE_GUARDED_BY(mutex_);
};

/// One thread's, but `stop`.
class Take {
 public:
  /// Where the image goes; made by the caller in tests.
  using MakeOutput = std::function<Result<std::unique_ptr<ImageOutput>>()>;
  struct Context {
    SourceGuest& guest;
    WriteLog& log;
    TakeStop& stop;
    Observer* observer;
    Clock& clock;
    MakeOutput make_output;
  };
  Take(const Context& context, const CheckpointOptions& options);
  ~Take();

  /// Once. Nothing of it runs any more when it returns.
  CheckpointReport run();

 private:
  Status work();
  // In order; in take_setup.cc:
  Status look();
  Status open_base();
  Status open_output();
  Status arm();
  Status arm_live(const PageBitmap& pages);
  // In take_memory.cc, the guest standing at first:
  Status stand();
  Status save_state();
  Status start_lanes();
  Status run_on();
  Status wait_saved();
  Status wait_written();
  void end_lanes(const Error& error);

  Status publish();
  /// The guest is as it was, whatever has failed.
  void give_up();
  void fill_report(const Status& status, std::chrono::nanoseconds cpu_begin);

  Status add_holes(ImageWriter::Lane& lane) const;
  [[nodiscard]] std::uint64_t saved() const;
  void progress(std::uint64_t saved, std::uint64_t pages);
  void say(std::string name, std::string detail);
  [[nodiscard]] double ms_since(SteadyTime then) const;
  /// Time of `phase` from `since_` on, which becomes now.
  void note(double& phase_ms);

  SourceGuest& guest_;
  WriteLog& log_;
  TakeStop& stop_;
  Observer* const observer_;
  Clock& clock_;
  const MakeOutput make_output_;
  const CheckpointOptions& options_;
  CheckpointReport report_;
  const SteadyTime begin_;
  SteadyTime since_, progress_at_;
  Phase phase_ = Phase::kSetup;

  ImageDescription description_;
  std::shared_ptr<const ImageChain> base_;
  ImageHeader header_;
  std::unique_ptr<ImageWriter> writer_;
  bool live_wanted_ = false;  ///< The guest runs, and is to run on while it is saved.
  bool by_log_ = false;       ///< The log says what is not in the base.
  bool use_log_ = false;      ///< For this image or for the next.
  bool followed_ = false;     ///< The log was on before this.
  bool stands_ = false;       ///< Because of this.
  SteadyTime stopped_at_{};
  std::vector<Section> state_;
  PageBitmap pages_;  ///< Saved, unless the guest runs on: then live_ knows.
  PageBitmap holes_;
  std::unique_ptr<LiveMemory> live_;
  std::unique_ptr<StandingMemory> standing_;
  std::unique_ptr<SaveLanes> lanes_;
  std::atomic<bool> ended_{false};  ///< Nothing more is saved.
  ImageWriter::Written written_;
};

}  // namespace migrate::checkpoint
