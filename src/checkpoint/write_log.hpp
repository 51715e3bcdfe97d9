// WriteLog: which pages were written since an image, by the guest's tracker.
#pragma once

#include <span>
#include <string>

#include "migrate/dirty_tracker.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate::checkpoint {

/// One thread's. What has been taken from the tracker is kept until an image has it, so a
/// checkpoint that fails loses nothing.
class WriteLog {
 public:
  explicit WriteLog(DirtyTracker& tracker) : tracker_(tracker) {}

  /// The id of the image since which writes are known; empty when they are not.
  [[nodiscard]] const std::string& since() const { return since_; }
  [[nodiscard]] bool tracking() const { return tracking_; }

  /// Before the pause: tracks from now on, if it does not, and takes what has been written so far,
  /// so that little is left to take while the guest stands. A tracker that fails is stopped.
  Status follow(std::span<const Region> regions);
  /// While the guest stands: takes the rest. What is written from now on is found the next time.
  Status take();
  /// Written since the image, as far as it was taken.
  [[nodiscard]] const PageBitmap& written() const { return written_; }

  /// Of that, what the latest follow() or take() has brought.
  [[nodiscard]] const PageBitmap& latest() const { return collected_; }

  /// An image has been written of the guest as it was at the latest take().
  void begin_anew(std::string id);
  /// No image was written, and nobody asked for tracking before.
  void stop();

 private:
  Status collect();
  Status rearm(const PageBitmap::Segment& segment);

  DirtyTracker& tracker_;
  bool tracking_ = false;
  std::string since_;
  PageBitmap written_, collected_;
};

}  // namespace migrate::checkpoint
