// PageFetcher: waits for pages of the staging that have not come yet, each in a thread, since the
// engine holds whoever touches one until it is there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "adapters/containers/target/staged_memory.hpp"
#include "base/mutex.hpp"
#include "base/thread_annotations.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

class PageFetcher {
 public:
  /// `done` is called from any thread: whether the page at `offset` is there now.
  using Done = std::function<void(std::uint64_t offset, bool there)>;
  PageFetcher(const StagedMemory& staging, Done done) : staging_(staging), done_(std::move(done)) {}
  /// Waits for threads that are held: the engine lets everybody go before the staging does.
  ~PageFetcher();
  PageFetcher(const PageFetcher&) = delete;
  PageFetcher& operator=(const PageFetcher&) = delete;

  /// Starts with as many threads as usually wait at a time.
  Status start();
  /// One thread. One more is started where all are held, up to a bound; then it waits its turn.
  void fetch(std::uint64_t offset);

 private:
  void run();
  [[nodiscard]] bool touch(std::uint64_t offset) const;
  Status add_thread() MIGRATE_REQUIRES(mutex_);

  const StagedMemory& staging_;
  const Done done_;
  Mutex mutex_;
  CondVar wanted_;
  std::deque<std::uint64_t> queue_ MIGRATE_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_ MIGRATE_GUARDED_BY(mutex_);
  std::size_t idle_ MIGRATE_GUARDED_BY(mutex_) = 0;
  bool ending_ MIGRATE_GUARDED_BY(mutex_) = false;
};

}  // namespace migrate::containers
