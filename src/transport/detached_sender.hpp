// DetachedSender: a thread that sends what its owner must not wait for.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "base/mutex.hpp"
#include "migrate/channel.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// Bytes go out in the order in which they were given. While any are left nobody else may send on
/// the channel. Methods are those of the thread that sends.
class DetachedSender {
 public:
  /// `channel` must outlive it.
  explicit DetachedSender(Channel& channel) : channel_(channel) {}
  ~DetachedSender();  ///< Gives it a moment, then interrupts what is under way.
  DetachedSender(const DetachedSender&) = delete;
  DetachedSender& operator=(const DetachedSender&) = delete;

  /// Takes a copy and returns at once. An error is that of something given before.
  Status give(std::span<const iovec> parts, std::chrono::nanoseconds idle_max);
  /// Waits until all of it has left; kTimeout when it has not within `wait_max`.
  Status finish(std::chrono::nanoseconds wait_max);
  /// Nothing is left, and nothing has failed.
  [[nodiscard]] bool idle();

 private:
  void run();

  Channel& channel_;
  std::thread thread_;

  Mutex mutex_;
  CondVar changed_;
  std::vector<std::byte> waiting_ MIGRATE_GUARDED_BY(mutex_);
  std::chrono::nanoseconds idle_max_ MIGRATE_GUARDED_BY(mutex_){0};
  bool sending_ MIGRATE_GUARDED_BY(mutex_) = false;
  bool stopping_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::optional<Error> error_ MIGRATE_GUARDED_BY(mutex_);
};

}  // namespace migrate
