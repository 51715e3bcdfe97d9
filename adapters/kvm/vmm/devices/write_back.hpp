// WriteBack: gets what the host has cached of a disk image to its storage, and remembers what was
// lost on the way.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "adapters/kvm/vmm/devices/device_worker.hpp"
#include "base/mutex.hpp"
#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// The kernel tells of a write it could not bring to storage once, to the first fdatasync() on the
/// open file, and drops the data: the next fdatasync() succeeds. So whoever asks here after a
/// failure gets that failure, for good. Any thread may call any method. The
/// destructor waits for what is under way: the file may be closed then.
class WriteBack {
 public:
  /// As fdatasync(), with an errno for a result; 0 for none.
  using Sync = std::function<int()>;

  /// `name`: of the file, for errors. `sync` must be callable as long as this lives.
  static Result<std::unique_ptr<WriteBack>> create(std::string name, Sync sync);

  /// Now, however long it takes. An errno, 0 for none.
  int flush() MIGRATE_EXCLUDES(sync_mutex_);
  /// Begins it on a thread of its own.
  void begin() MIGRATE_EXCLUDES(mutex_);
  /// The same, and from now on whenever kEagerBytes more have been written, so that flush_until()
  /// has little to do.
  void keep_up() MIGRATE_EXCLUDES(mutex_);
  void wrote(std::uint64_t bytes) MIGRATE_EXCLUDES(mutex_);
  /// All that was written before the call, on the thread of its own. kTimeout at the deadline: it
  /// goes on. kIo when a write was lost, now or before.
  Status flush_until(SteadyTime deadline) MIGRATE_EXCLUDES(mutex_);

  // A slow disk (100 MB/s) writes it within a second.
  static constexpr std::uint64_t kEagerBytes = 64 << 20;

 private:
  WriteBack(std::string name, Sync sync) : name_(std::move(name)), sync_(std::move(sync)) {}
  void work() MIGRATE_EXCLUDES(mutex_, sync_mutex_);

  const std::string name_;
  const Sync sync_;
  std::atomic<bool> eager_{false};
  std::atomic<std::uint64_t> written_{0};  ///< Since one was begun last.

  // Held while the kernel is asked: one that comes meanwhile would be told that all is well.
  Mutex sync_mutex_;
  int lost_ MIGRATE_GUARDED_BY(sync_mutex_) = 0;  ///< The errno of the first failure.

  Mutex mutex_;
  CondVar changed_;
  bool begun_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::uint64_t asked_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::uint64_t done_ MIGRATE_GUARDED_BY(mutex_) = 0;
  int result_ MIGRATE_GUARDED_BY(mutex_) = 0;
  // Last: its thread uses all of the above.
  std::unique_ptr<DeviceWorker> worker_;
};

}  // namespace migrate::vmm
