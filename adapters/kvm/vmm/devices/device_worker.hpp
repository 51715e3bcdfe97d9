// DeviceWorker: the thread of a device, which can be made to stand still.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>

#include "base/event_fd.hpp"
#include "base/mutex.hpp"
#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// Calls its work whenever it is kicked, while two things hold: the device is started (its driver
/// is ready) and it is not quiesced. New: stopped and quiesced. Any thread may call any method but
/// go_on().
class DeviceWorker {
 public:
  struct Next {
    bool again = false;  ///< Call me again at once.
    bool poll = false;   ///< Call me also when the descriptor is readable.
  };
  using Work = std::function<Next()>;

  /// `name`: of the thread, 15 characters of it. `work` is called on the thread alone and returns
  /// soon after go_on() has become false. `fd`: polled on request; -1: none; must outlive this.
  static Result<std::unique_ptr<DeviceWorker>> create(const std::string& name, Work work,
                                                      int fd = -1);
  ~DeviceWorker();
  DeviceWorker(const DeviceWorker&) = delete;
  DeviceWorker& operator=(const DeviceWorker&) = delete;

  void kick() noexcept { kicked_.set(); }
  void start() MIGRATE_EXCLUDES(mutex_);
  /// Waits for a call of the work that is under way.
  void stop() MIGRATE_EXCLUDES(mutex_);
  /// The same, no longer than `deadline`: then it works on, and this is kTimeout.
  Status quiesce(SteadyTime deadline) MIGRATE_EXCLUDES(mutex_);
  void resume() MIGRATE_EXCLUDES(mutex_);

  /// For the work: false once it shall end.
  [[nodiscard]] bool go_on() const noexcept { return go_on_.load(std::memory_order_relaxed); }

 private:
  DeviceWorker(std::string name, Work work, int fd, EventFd kicked);
  void run() MIGRATE_EXCLUDES(mutex_);
  bool wait_to_work() MIGRATE_EXCLUDES(mutex_);
  void wait_for_kick(bool with_fd);
  void update() MIGRATE_REQUIRES(mutex_);

  const std::string name_;
  const Work work_;
  const int fd_;
  EventFd kicked_;
  std::atomic<bool> go_on_{false};

  Mutex mutex_;
  CondVar changed_;
  bool started_ MIGRATE_GUARDED_BY(mutex_) = false;
  bool quiesced_ MIGRATE_GUARDED_BY(mutex_) = true;
  bool quit_ MIGRATE_GUARDED_BY(mutex_) = false;
  bool working_ MIGRATE_GUARDED_BY(mutex_) = false;
  // Last: it uses all of the above.
  std::thread thread_;
};

}  // namespace migrate::vmm
