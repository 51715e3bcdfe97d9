// EventHub: what a migration tells, kept for those who come later and queued for those who listen.
//
// Publishing never waits: a follower that does not read loses progress first, then its oldest
// events, and never the final report.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.hpp"
#include "report_json.hpp"

namespace migrate::tool {

/// One line for followers.
struct HubMessage {
  enum class Kind { kEvent, kProgress, kReport };
  Kind kind = Kind::kEvent;
  std::string text;  ///< JSON, no newline.
};
using HubMessagePtr = std::shared_ptr<const HubMessage>;

class EventHub {
 public:
  /// A follower's place in the hub; ends it when destroyed.
  class Follower {
   public:
    ~Follower();
    Follower(const Follower&) = delete;
    Follower& operator=(const Follower&) = delete;

    /// The next message, or nullptr: then `wake` is called when there is one. A message counts as
    /// delivered when the next one is asked for.
    [[nodiscard]] HubMessagePtr next();

   private:
    friend class EventHub;
    Follower(EventHub& hub, std::function<void()> wake) : hub_(hub), wake_(std::move(wake)) {}
    EventHub& hub_;
    const std::function<void()> wake_;  // Called with the hub locked: must only post.
    // The rest is guarded by hub_.mutex_.
    std::deque<HubMessagePtr> queue_;
    bool idle_ = false;  // Asked for a message when there was none.
  };

  /// Starts the history anew: what follows belongs to migration number `migration`.
  void begin(std::uint64_t migration) MIGRATE_EXCLUDES(mutex_);
  void publish(const Progress& progress) MIGRATE_EXCLUDES(mutex_);
  void publish(const Event& event) MIGRATE_EXCLUDES(mutex_);
  /// `report` as in docs/report.md. Ends the migration.
  void publish_report(const Json& report) MIGRATE_EXCLUDES(mutex_);

  /// The history of the current (or last) migration, then what comes.
  [[nodiscard]] std::unique_ptr<Follower> follow(std::function<void()> wake)
      MIGRATE_EXCLUDES(mutex_);

  /// Waits until every follower has been given everything; false at the deadline.
  bool drain(std::chrono::steady_clock::time_point deadline) MIGRATE_EXCLUDES(mutex_);

  [[nodiscard]] std::optional<Progress> last_progress() const MIGRATE_EXCLUDES(mutex_);
  /// Name of the last event, empty before the first.
  [[nodiscard]] std::string last_event() const MIGRATE_EXCLUDES(mutex_);

 private:
  void add(HubMessage::Kind kind, Json json) MIGRATE_REQUIRES(mutex_);
  static void enqueue(std::deque<HubMessagePtr>& queue, const HubMessagePtr& message);

  mutable Mutex mutex_;
  CondVar drained_;
  std::uint64_t migration_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::uint64_t sequence_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::deque<HubMessagePtr> history_ MIGRATE_GUARDED_BY(mutex_);
  std::vector<Follower*> followers_ MIGRATE_GUARDED_BY(mutex_);
  std::optional<Progress> progress_ MIGRATE_GUARDED_BY(mutex_);
  std::string last_event_ MIGRATE_GUARDED_BY(mutex_);
};

}  // namespace migrate::tool
