// GuestHost: writing the guest to an image. What begins it waits for it; whatever would change the
// guest meanwhile is refused.
#include <fcntl.h>

#include <utility>

#include "base/fd.hpp"
#include "base/guarded.hpp"
#include "guest_host.hpp"

namespace migrate::tool {
namespace {

Result<Fd> open_stream(const std::string& path) {
  // A FIFO's open() would wait for a reader, for which nobody could end it.
  Fd stream(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_TRUNC));
  if (stream) return stream;
  return make_errno_error(ErrorCode::kIo, errno, "cannot write to the stream " + path)
      .advise("the process that reads it has to be there before");
}

}  // namespace

Result<CheckpointReport> GuestHost::checkpoint(CheckpointRequest request) {
  Fd stream;
  if (!request.stream_path.empty()) {
    MIGRATE_ASSIGN(stream, open_stream(request.stream_path));
    request.options.stream = stream.get();
  }
  // It is going to be ended: what it would do after its image is lost.
  if (request.stop) request.options.leave_paused = true;
  MIGRATE_ASSIGN(Checkpointer* const checkpointer, begin_checkpoint(request));
  CheckpointReport report;
  const Status taken = guarded([&]() -> Status {
    report = checkpointer->take(request.options);
    return {};
  });
  if (!taken) {
    report.outcome = Outcome::kFailed;
    report.error = taken.error();
  }
  finish_checkpoint(request, report);
  return report;
}

Result<Checkpointer*> GuestHost::begin_checkpoint(const CheckpointRequest& request) {
  MutexLock lock(mutex_);
  end_recording();
  MIGRATE_TRY(check_here("checkpoint"));
  MIGRATE_TRY(check_whole("checkpoint"));
  const GuestState state = guest_.state();
  if (stop_wanted_ || (state != GuestState::kRunning && state != GuestState::kPaused)) {
    return make_error(ErrorCode::kBusy, "the guest ends").advise("see `migrate ps` for others");
  }
  // Tracking that this image is not going to use is not kept for it.
  if (request.options.base.empty()) MIGRATE_TRY(drop_tracking());
  if (!checkpointer_) {
    MIGRATE_ASSIGN(auto source, guest_.make_source());
    Observer* const observer = this;
    checkpointer_ = std::make_unique<Checkpointer>(std::move(source), observer);
  }
  activity_ = Activity::kCheckpointing;
  return checkpointer_.get();
}

void GuestHost::finish_checkpoint(const CheckpointRequest& request,
                                  const CheckpointReport& report) {
  MutexLock lock(mutex_);
  activity_ = Activity::kHere;
  if (checkpointer_->tracking_since().empty()) checkpointer_.reset();
  if (report.outcome == Outcome::kDone && request.stop) stop_wanted_ = true;
  wake_.set();
}

Status GuestHost::cancel_checkpoint() {
  MutexLock lock(mutex_);
  if (activity_ != Activity::kCheckpointing) {
    return make_error(ErrorCode::kNotFound, "no image of this guest is being written")
        .advise("see `migrate status`");
  }
  if (checkpointer_->cancel()) return {};
  return make_error(ErrorCode::kBusy, "the image is there already")
      .advise("remove it, if it is not wanted");
}

std::string GuestHost::tracking_since() const {
  MutexLock lock(mutex_);
  const bool idle = activity_ != Activity::kCheckpointing && checkpointer_ != nullptr;
  return idle ? checkpointer_->tracking_since() : std::string();
}

Status GuestHost::end_tracking() {
  MutexLock lock(mutex_);
  MIGRATE_TRY(check_here("stop tracking"));
  return drop_tracking();
}

/// Something else is going to track the guest's writes, or nobody.
Status GuestHost::drop_tracking() {
  checkpointer_.reset();
  return {};
}

}  // namespace migrate::tool
