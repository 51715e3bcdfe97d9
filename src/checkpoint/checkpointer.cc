#include <utility>

#include "base/mutex.hpp"
#include "checkpoint/take.hpp"
#include "migrate/checkpoint.hpp"

namespace migrate {

using checkpoint::Take;
using checkpoint::TakeStop;
using checkpoint::WriteLog;

class Checkpointer::Impl {
 public:
  Impl(std::unique_ptr<SourceGuest> guest, Observer* observer, Clock& clock)
      : guest_(std::move(guest)), observer_(observer), clock_(clock), log_(guest_->tracker()) {}
  ~Impl() {
    if (guest_ != nullptr) log_.stop();
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  CheckpointReport take(const CheckpointOptions& options) MIGRATE_EXCLUDES(mutex_) {
    MIGRATE_CHECK(guest_ != nullptr);
    TakeStop stop;
    const auto make_output = [&] {
      return options.path.empty() ? checkpoint::make_stream_output(options.stream)
                                  : checkpoint::make_file_output(options.path);
    };
    Take take({*guest_, log_, stop, observer_, clock_, make_output}, options);
    const Stoppable stoppable(*this, stop);
    return take.run();
  }

  bool cancel() noexcept MIGRATE_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    return stop_ != nullptr && stop_->cancel();
  }

  [[nodiscard]] std::string tracking_since() const { return log_.since(); }

  std::unique_ptr<SourceGuest> take_guest() {
    MIGRATE_CHECK(guest_ != nullptr);
    log_.stop();
    return std::move(guest_);
  }

 private:
  /// While this lives cancel() has something to end.
  class Stoppable {
   public:
    Stoppable(Impl& impl, TakeStop& stop) : impl_(impl) { impl_.set_stop(&stop); }
    ~Stoppable() { impl_.set_stop(nullptr); }
    Stoppable(const Stoppable&) = delete;
    Stoppable& operator=(const Stoppable&) = delete;

   private:
    Impl& impl_;
  };
  void set_stop(TakeStop* stop) MIGRATE_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    stop_ = stop;
  }

  std::unique_ptr<SourceGuest> guest_;
  Observer* const observer_;
  Clock& clock_;
  WriteLog log_;
  Mutex mutex_;
  TakeStop* stop_ MIGRATE_GUARDED_BY(mutex_) = nullptr;  ///< Of a take() that is under way.
};

Checkpointer::Checkpointer(std::unique_ptr<SourceGuest> guest, Observer* observer, Clock& clock)
    : impl_(std::make_unique<Impl>(std::move(guest), observer, clock)) {}
Checkpointer::~Checkpointer() = default;

CheckpointReport Checkpointer::take(const CheckpointOptions& options) {
  return impl_->take(options);
}
bool Checkpointer::cancel() noexcept { return impl_->cancel(); }
std::string Checkpointer::tracking_since() const { return impl_->tracking_since(); }
std::unique_ptr<SourceGuest> Checkpointer::take_guest() { return impl_->take_guest(); }

}  // namespace migrate
