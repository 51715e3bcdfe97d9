#include "adapters/containers/target/page_fetcher.hpp"

#include <sys/uio.h>
#include <unistd.h>

#include "base/log.hpp"
#include "base/start_thread.hpp"

namespace migrate::containers {
namespace {

/// A tree's threads that wait for memory at a time; more come when these are held.
constexpr std::size_t kThreadsFirst = 8;
/// Of trees with more threads some wait their turn.
constexpr std::size_t kThreadsMax = 256;

}  // namespace

PageFetcher::~PageFetcher() {
  std::vector<std::thread> threads;
  {
    const MutexLock lock(mutex_);
    ending_ = true;
    queue_.clear();
    threads.swap(threads_);
  }
  wanted_.notify_all();
  for (std::thread& thread : threads) thread.join();
}

Status PageFetcher::start() {
  const MutexLock lock(mutex_);
  for (std::size_t i = 0; i < kThreadsFirst; ++i) MIGRATE_TRY(add_thread());
  return {};
}

Status PageFetcher::add_thread() {
  threads_.emplace_back();
  Status started = start_thread(threads_.back(), "tree-fetch", [this] { run(); });
  if (!started) threads_.pop_back();
  return started;
}

void PageFetcher::fetch(std::uint64_t offset) {
  const MutexLock lock(mutex_);
  queue_.push_back(offset);
  if (idle_ < queue_.size() && threads_.size() < kThreadsMax) {
    if (const Status more = add_thread(); !more) {
      log_line(LogLevel::kWarning, "a page waits its turn: " + more.error().to_text());
    }
  }
  wanted_.notify_one();
}

void PageFetcher::run() {
  for (;;) {
    std::uint64_t offset = 0;
    {
      const MutexLock lock(mutex_);
      ++idle_;
      while (queue_.empty() && !ending_) wanted_.wait(mutex_);
      --idle_;
      if (ending_) return;
      offset = queue_.front();
      queue_.pop_front();
    }
    done_(offset, touch(offset));
  }
}

/// By a system call: memory that the engine forbids is an error to it, and a signal to a load.
bool PageFetcher::touch(std::uint64_t offset) const {
  std::byte* const page = staging_.at(offset);
  if (page == nullptr) return false;
  std::byte byte{};
  const iovec into{&byte, 1};
  const iovec from{page, 1};
  return ::process_vm_readv(::getpid(), &into, 1, &from, 1, 0) == 1;
}

}  // namespace migrate::containers
