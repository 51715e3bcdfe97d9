#include "event_hub.hpp"

#include <algorithm>

namespace migrate::tool {
namespace {

// A migration of 30 rounds tells about a hundred events; a few hundred bytes each.
constexpr std::size_t kQueueMax = 512;

std::int64_t unix_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

const char* type_name(HubMessage::Kind kind) {
  switch (kind) {
    case HubMessage::Kind::kEvent:
      return "event";
    case HubMessage::Kind::kProgress:
      return "progress";
    case HubMessage::Kind::kReport:
      return "report";
  }
  return "event";
}

}  // namespace

EventHub::Follower::~Follower() {
  MutexLock lock(hub_.mutex_);
  std::erase(hub_.followers_, this);
  hub_.drained_.notify_all();
}

HubMessagePtr EventHub::Follower::next() {
  MutexLock lock(hub_.mutex_);
  if (queue_.empty()) {
    idle_ = true;
    hub_.drained_.notify_all();
    return nullptr;
  }
  idle_ = false;
  HubMessagePtr message = std::move(queue_.front());
  queue_.pop_front();
  return message;
}

void EventHub::begin(std::uint64_t migration) {
  MutexLock lock(mutex_);
  migration_ = migration;
  history_.clear();
  progress_.reset();
  last_event_.clear();
}

void EventHub::publish(const Progress& progress) {
  MutexLock lock(mutex_);
  progress_ = progress;
  add(HubMessage::Kind::kProgress, to_json(progress));
}

void EventHub::publish(const Event& event) {
  MutexLock lock(mutex_);
  last_event_ = event.name;
  add(HubMessage::Kind::kEvent, to_json(event));
}

void EventHub::publish_report(const Json& report) {
  MutexLock lock(mutex_);
  progress_.reset();
  add(HubMessage::Kind::kReport, Json{{"report", report}});
}

void EventHub::add(HubMessage::Kind kind, Json json) {
  Json line = {{"type", type_name(kind)},
               {"migration", migration_},
               {"sequence", ++sequence_},
               {"time_ms", unix_ms()}};
  line.update(json);
  // A name or an error's text may hold bytes a peer sent: whatever is not UTF-8 is replaced.
  const auto message = std::make_shared<const HubMessage>(
      HubMessage{kind, line.dump(-1, ' ', false, Json::error_handler_t::replace)});
  enqueue(history_, message);
  for (Follower* follower : followers_) {
    enqueue(follower->queue_, message);
    if (!follower->idle_) continue;
    follower->idle_ = false;
    follower->wake_();
  }
}

void EventHub::enqueue(std::deque<HubMessagePtr>& queue, const HubMessagePtr& message) {
  const auto is_progress = [](const HubMessagePtr& other) {
    return other->kind == HubMessage::Kind::kProgress;
  };
  // Only the latest progress is news.
  if (is_progress(message)) std::erase_if(queue, is_progress);
  if (queue.size() >= kQueueMax) queue.pop_front();
  queue.push_back(message);
}

std::unique_ptr<EventHub::Follower> EventHub::follow(std::function<void()> wake) {
  std::unique_ptr<Follower> follower(new Follower(*this, std::move(wake)));
  MutexLock lock(mutex_);
  follower->queue_ = history_;
  followers_.push_back(follower.get());
  return follower;
}

bool EventHub::drain(std::chrono::steady_clock::time_point deadline) {
  MutexLock lock(mutex_);
  const auto has_all = [](const Follower* follower) {
    return follower->queue_.empty() && follower->idle_;
  };
  while (!std::all_of(followers_.begin(), followers_.end(), has_all)) {
    if (!drained_.wait_until(mutex_, deadline)) return false;
  }
  return true;
}

std::optional<Progress> EventHub::last_progress() const {
  MutexLock lock(mutex_);
  return progress_;
}

std::string EventHub::last_event() const {
  MutexLock lock(mutex_);
  return last_event_;
}

}  // namespace migrate::tool
