#include "checkpoint/work_share.hpp"

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "base/guarded.hpp"
#include "base/start_thread.hpp"

namespace migrate::checkpoint {

std::optional<std::size_t> WorkShare::take() {
  const MutexLock lock(mutex_);
  if (next_ >= end_) return std::nullopt;
  return next_++;
}

void WorkShare::fail(std::size_t piece, Error error) {
  const MutexLock lock(mutex_);
  if (error_ && piece >= end_) return;
  end_ = piece;
  error_ = std::move(error);
}

Status WorkShare::outcome() const {
  const MutexLock lock(mutex_);
  if (error_) return *error_;
  return {};
}

Status WorkShare::run(std::size_t count, unsigned threads,
                      const std::function<Status(WorkShare&)>& worker) {
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  threads = static_cast<unsigned>(std::min<std::size_t>(threads, std::max<std::size_t>(count, 1)));
  WorkShare share(count);
  const auto work = [&] {
    Status status = guarded([&] { return worker(share); });
    if (!status) share.fail(0, status.error());
  };
  std::vector<std::thread> others(threads - 1);
  Status started;
  for (std::thread& thread : others) {
    started = start_thread(thread, "mig-image", work);
    if (!started) break;  // The rest do it.
  }
  work();
  for (std::thread& thread : others) {
    if (thread.joinable()) thread.join();
  }
  return share.outcome();
}

}  // namespace migrate::checkpoint
