#include "transport/detached_sender.hpp"

#include <algorithm>
#include <utility>

#include "base/guarded.hpp"
#include "base/start_thread.hpp"

namespace migrate {
namespace {

constexpr std::chrono::milliseconds kLastWordPatience{200};

}  // namespace

DetachedSender::~DetachedSender() {
  if (!thread_.joinable()) return;
  // The last of it may be the word that says why the session ended.
  static_cast<void>(finish(kLastWordPatience));
  bool sending = false;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    sending = sending_;
    changed_.notify_all();
  }
  // What is left in part is of no use to the peer; the channel goes with its owner.
  if (sending) channel_.shutdown();
  thread_.join();
}

Status DetachedSender::give(std::span<const iovec> parts, std::chrono::nanoseconds idle_max) {
  if (!thread_.joinable()) {
    MIGRATE_TRY(start_thread(thread_, "mig-send", [this] { run(); }));
  }
  MutexLock lock(mutex_);
  if (error_) return *error_;
  for (const iovec& part : parts) {
    const auto* const begin = static_cast<const std::byte*>(part.iov_base);
    waiting_.insert(waiting_.end(), begin, begin + part.iov_len);
  }
  idle_max_ = std::max(idle_max_, idle_max);
  changed_.notify_all();
  return {};
}

Status DetachedSender::finish(std::chrono::nanoseconds wait_max) {
  const auto until = std::chrono::steady_clock::now() + wait_max;
  MutexLock lock(mutex_);
  while ((sending_ || !waiting_.empty()) && !error_) {
    if (changed_.wait_until(mutex_, until)) continue;
    return make_error(ErrorCode::kTimeout,
                      "what was to be sent before has not left for " + channel_.peer());
  }
  if (error_) return *error_;
  return {};
}

bool DetachedSender::idle() {
  MutexLock lock(mutex_);
  return !sending_ && waiting_.empty() && !error_;
}

void DetachedSender::run() {
  std::vector<std::byte> bytes;
  for (;;) {
    std::chrono::nanoseconds idle_max{0};
    {
      MutexLock lock(mutex_);
      sending_ = false;
      changed_.notify_all();
      while (waiting_.empty() && !stopping_) changed_.wait(mutex_);
      if (stopping_) return;
      bytes.clear();
      std::swap(bytes, waiting_);
      sending_ = true;
      idle_max = idle_max_;
    }
    const iovec part{bytes.data(), bytes.size()};
    Status sent = guarded([&] { return channel_.send({&part, 1}, idle_max); });
    if (sent) continue;
    MutexLock lock(mutex_);
    error_ = std::move(sent).error();
    sending_ = false;
    changed_.notify_all();
    return;
  }
}

}  // namespace migrate
