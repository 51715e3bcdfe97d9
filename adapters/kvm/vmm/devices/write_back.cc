#include "adapters/kvm/vmm/devices/write_back.hpp"

#include <utility>

namespace migrate::vmm {

Result<std::unique_ptr<WriteBack>> WriteBack::create(std::string name, Sync sync) {
  std::unique_ptr<WriteBack> made(new WriteBack(std::move(name), std::move(sync)));
  MIGRATE_ASSIGN(made->worker_, DeviceWorker::create("write-back", [raw = made.get()] {
                   raw->work();
                   return DeviceWorker::Next{};
                 }));
  made->worker_->start();
  made->worker_->resume();
  return made;
}

int WriteBack::flush() {
  MutexLock lock(sync_mutex_);
  const int error = sync_();
  if (lost_ == 0) lost_ = error;
  return lost_;
}

void WriteBack::keep_up() {
  eager_ = true;
  begin();
}

void WriteBack::begin() {
  written_ = 0;
  MutexLock lock(mutex_);
  begun_ = true;
  worker_->kick();
}

void WriteBack::wrote(std::uint64_t bytes) {
  if (eager_ && (written_ += bytes) >= kEagerBytes) begin();
}

Status WriteBack::flush_until(SteadyTime deadline) {
  MutexLock lock(mutex_);
  const std::uint64_t mine = ++asked_;
  worker_->kick();
  while (done_ < mine) {
    if (changed_.wait_until(mutex_, deadline) || done_ >= mine) continue;
    return make_error(ErrorCode::kTimeout, "the storage of the disk image " + name_ +
                                               " did not take in time what was written to it")
        .advise(
            "look for storage that hangs or is overloaded, and try again: it is being written "
            "meanwhile");
  }
  if (result_ == 0) return {};
  return make_errno_error(ErrorCode::kIo, result_,
                          "writes of the guest to the disk image " + name_ +
                              " did not reach its storage, and may be lost")
      .advise(
          "check the storage; then shut the guest down, check the image's file systems and start "
          "it anew: it does not leave this host before");
}

void WriteBack::work() {
  std::uint64_t asked = 0;
  {
    MutexLock lock(mutex_);
    if (!std::exchange(begun_, false) && done_ == asked_) return;
    asked = asked_;
  }
  const int result = flush();
  MutexLock lock(mutex_);
  done_ = asked;
  result_ = result;
  changed_.notify_all();
}

}  // namespace migrate::vmm
