#include "checkpoint/save_lanes.hpp"

#include <utility>

#include "base/guarded.hpp"
#include "base/start_thread.hpp"
#include "base/thread_cpu.hpp"

namespace migrate::checkpoint {

Result<std::unique_ptr<SaveLanes>> SaveLanes::create(ImageWriter& writer, std::size_t count) {
  std::unique_ptr<SaveLanes> made(new SaveLanes);
  for (std::size_t i = 0; i < count; ++i) {
    MIGRATE_ASSIGN(made->lanes_.emplace_back().lane, writer.make_lane());
  }
  return made;
}

SaveLanes::~SaveLanes() { (void)finish(); }

Status SaveLanes::start(Work work) {
  work_ = std::move(work);
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    {
      const MutexLock lock(mutex_);
      ++left_;
    }
    Status started = start_thread(lanes_[i].thread, "mig-save", [this, i] { run(i); });
    if (started) continue;
    // Fewer lanes are slower, and no more.
    {
      const MutexLock lock(mutex_);
      --left_;
    }
    lanes_[i].lane.reset();
    if (i == 0) return started;
  }
  return {};
}

void SaveLanes::run(std::size_t number) {
  One& one = lanes_[number];
  const auto cpu = thread_cpu();
  const Status saved = guarded([&] { return work_.save(*one.lane, number); });
  note(saved);
  {
    const MutexLock lock(mutex_);
    --left_;
    saved_.notify_all();
  }
  if (saved) note(guarded([&] { return one.lane->flush(); }));
  one.lane.reset();
  one.cpu = thread_cpu() - cpu;
}

void SaveLanes::note(const Status& status) {
  if (status) return;
  {
    const MutexLock lock(mutex_);
    if (!failure_) return;
    failure_ = status;
    saved_.notify_all();
  }
  work_.failed(status.error());
}

bool SaveLanes::wait_saved(std::chrono::steady_clock::time_point deadline) {
  const MutexLock lock(mutex_);
  while (left_ > 0 && failure_) {
    if (!saved_.wait_until(mutex_, deadline)) return left_ == 0 || !failure_;
  }
  return true;
}

Status SaveLanes::failure() const {
  const MutexLock lock(mutex_);
  return failure_;
}

Status SaveLanes::finish() {
  for (One& one : lanes_) {
    if (one.thread.joinable()) one.thread.join();
    cpu_ += std::exchange(one.cpu, std::chrono::nanoseconds(0));
    one.lane.reset();
  }
  return failure();
}

}  // namespace migrate::checkpoint
