#include "session/introductions.hpp"

#include <algorithm>
#include <atomic>

#include "base/guarded.hpp"
#include "base/log.hpp"
#include "base/start_thread.hpp"
#include "transport/announced_session.hpp"

namespace migrate::session {
namespace {

using std::chrono::milliseconds;
using SteadyClock = std::chrono::steady_clock;

// Connections that have not introduced themselves yet. A session has at most 65 lanes; strangers
// beyond that wait in the listen queue until somebody's deadline passes.
constexpr std::size_t kPendingMax = 80;
// A refusal is a courtesy to a peer that may be gone.
constexpr milliseconds kReplyPatience{1'000};
constexpr milliseconds kAcceptPause{100};

void refuse(RecordChannel& channel, Error error) {
  log_line(LogLevel::kWarning, "refused " + channel.channel().peer() + ": " + error.to_text());
  Status sent = channel.send(wire::ErrorRecord{std::move(error).on(Side::kTarget)}, kReplyPatience);
  static_cast<void>(sent);
}

/// Where there may be no memory for it.
void note(const Error& error) {
  Status logged = guarded([&]() -> Status {
    log_line(LogLevel::kError, error.to_text());
    return {};
  });
  static_cast<void>(logged);
}

}  // namespace

struct Introductions::Pending {
  std::unique_ptr<RecordChannel> channel;
  Channel* raw = nullptr;  // Stays valid until `done` for interrupting, unless handed on.
  bool handed_on = false;  // Guarded by Introductions::mutex_.
  SteadyClock::time_point deadline;
  std::atomic<bool> done{false};
  std::thread thread;
};

Introductions::Introductions(Context context) : context_(std::move(context)) {
  Status started = start_thread(thread_, "mig-accept", [this] { run(); });
  if (started) return;
  MutexLock lock(mutex_);
  accept_error_ = std::move(started).error();
}

Introductions::~Introductions() {
  interrupt();
  if (thread_.joinable()) thread_.join();
  reap(true);
}

void Introductions::interrupt() noexcept {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    for (auto& pending : pending_) {
      if (!pending->handed_on) pending->raw->interrupt();
    }
    changed_.notify_all();
  }
  context_.acceptor.interrupt();
}

/// Goes on whatever a connection comes to: the guest that has arrived may run in this process.
void Introductions::run() {
  for (;;) {
    Status taken = guarded([this] { return take_next(); });
    if (!taken) note(taken.error());
    MutexLock lock(mutex_);
    if (stopping_) return;
    // Out of descriptors, memory or threads, say: it may pass.
    if (!taken) changed_.wait_until(mutex_, SteadyClock::now() + kAcceptPause);
  }
}

/// Lets the next connection introduce itself, if one comes. One for which something is lacking is
/// dropped.
Status Introductions::take_next() {
  auto channel = context_.acceptor.accept(until_next_deadline());
  reap(false);
  MutexLock lock(mutex_);
  interrupt_late();
  if (stopping_) return {};
  if (!channel) {
    if (channel.error().code == ErrorCode::kTimeout) return {};
    accept_error_ = std::move(channel).error();
    changed_.notify_all();
    changed_.wait_until(mutex_, SteadyClock::now() + kAcceptPause);
    return {};
  }
  accept_error_.reset();
  while (pending_.size() >= kPendingMax && !stopping_) {
    // A slot is free by the hello deadline at the latest; connections wait in the kernel.
    changed_.wait_until(mutex_, SteadyClock::now() + kAcceptPause);
    interrupt_late();
    std::erase_if(pending_, [](auto& pending) {
      if (!pending->done.load()) return false;
      pending->thread.join();
      return true;
    });
  }
  if (stopping_) return {};
  auto pending = std::make_unique<Pending>();
  pending->deadline = SteadyClock::now() + context_.hello_timeout;
  pending->channel = std::make_unique<RecordChannel>(*std::move(channel));
  pending->channel->set_mid_record_idle(context_.hello_timeout);
  pending->raw = &pending->channel->channel();
  // First, for once the thread runs nothing may throw.
  pending_.push_back(std::move(pending));
  Pending& last = *pending_.back();
  Status started = start_thread(last.thread, "mig-introduce", [this, &last] {
    Status introduced = guarded([&]() -> Status { return introduce(last), Status(); });
    if (!introduced) note(introduced.error());
    last.done.store(true);
  });
  if (!started) pending_.pop_back();
  return started;
}

nanoseconds Introductions::until_next_deadline() {
  MutexLock lock(mutex_);
  auto next = SteadyClock::now() + std::chrono::hours(1);
  for (const auto& pending : pending_) {
    if (!pending->handed_on) next = std::min(next, pending->deadline);
  }
  return std::max<nanoseconds>(next - SteadyClock::now(), milliseconds(1));
}

/// Receiving bounds silence only: who sends a byte now and then would keep its place for ever.
void Introductions::interrupt_late() {
  const auto now = SteadyClock::now();
  for (auto& pending : pending_) {
    if (pending->handed_on || now < pending->deadline) continue;
    pending->raw->interrupt();
    pending->deadline = SteadyClock::time_point::max();
  }
}

void Introductions::reap(bool all) {
  std::list<std::unique_ptr<Pending>> gone;
  {
    MutexLock lock(mutex_);
    for (auto it = pending_.begin(); it != pending_.end();) {
      auto next = std::next(it);
      if (all || (*it)->done.load()) gone.splice(gone.end(), pending_, it);
      it = next;
    }
  }
  for (auto& pending : gone) pending->thread.join();
}

template <typename Message>
void Introductions::take(std::unique_ptr<RecordChannel> channel,
                         const RecordChannel::Record& record, Taking<Message> taking) {
  auto message = wire::decode<Message>(record.body);
  if (!message) return refuse(*channel, std::move(message).error());
  Status announced = check_announced_session(channel->channel(), message->session);
  if (!announced) return refuse(*channel, std::move(announced).error());
  (this->*taking)(std::move(channel), *message);
}

void Introductions::introduce(Pending& pending) {
  auto record = pending.channel->receive(context_.hello_timeout);
  std::unique_ptr<RecordChannel> channel;
  bool stopping = false;
  {
    MutexLock lock(mutex_);
    stopping = stopping_;
    pending.handed_on = true;
    channel = std::move(pending.channel);
    channel->set_mid_record_idle(context_.peer_timeout);
    channel->channel().resume_after_interrupt();
  }
  if (!record) {
    Error error = std::move(record).error();
    if (stopping) {
      error =
          make_error(ErrorCode::kCancelled, "the target ended the session as this connection came")
              .advise("see what the target reports, and whether all connections reach it");
    } else if (error.code == ErrorCode::kTimeout || error.code == ErrorCode::kCancelled) {
      error = make_error(ErrorCode::kTimeout, "the connection did not introduce itself in time");
    }
    return refuse(*channel, std::move(error));
  }
  switch (record->header.type) {
    case wire::RecordType::kHello:
      return take(std::move(channel), *record, &Introductions::take_hello);
    case wire::RecordType::kJoin:
      return take(std::move(channel), *record, &Introductions::take_join);
    case wire::RecordType::kAsk:
      return take(std::move(channel), *record, &Introductions::take_ask);
    case wire::RecordType::kResume:
      return take(std::move(channel), *record, &Introductions::take_resume);
    default:
      return refuse(*channel, RecordChannel::unexpected(*record, wire::RecordType::kHello));
  }
}

void Introductions::take_hello(std::unique_ptr<RecordChannel> channel, const wire::Hello& hello) {
  {
    MutexLock lock(mutex_);
    if (!hello_taken_) {
      hello_taken_ = true;
      source_ = channel->channel().peer_identity();
      arrival_ = Arrival{std::move(channel), hello};
      changed_.notify_all();
      return;
    }
  }
  refuse(*channel, make_error(ErrorCode::kBusy, "this target is receiving another guest")
                       .advise("wait for it, or start another `migrate recv` there"));
}

Status Introductions::check_peer(const Channel& channel) {
  if (channel.peer_identity() == source_) return {};
  return make_error(ErrorCode::kUnauthorized,
                    channel.peer() + " is not the host that began the session")
      .advise("all connections of a session come from one host, with one certificate or key");
}

Status Introductions::check_join(const Channel& channel, const wire::Join& join) {
  if (!expecting_ || join.session != session_) {
    return make_error(ErrorCode::kNotFound, "a lane wants to join a session that is not here");
  }
  if (!equal(join.proof, secret_)) {
    return make_error(ErrorCode::kUnauthorized, "a lane does not prove that it is the session's");
  }
  MIGRATE_TRY(check_peer(channel));
  const std::size_t number = join.lane.number;
  if (!is_wanted(join)) {
    return make_error(ErrorCode::kProtocol,
                      "lane " + std::to_string(number) + " is not wanted, or has joined already");
  }
  return {};
}

/// After a lost link the newest counts: one that the source has given up may still have come.
bool Introductions::is_wanted(const wire::Join& join) const {
  const std::size_t number = join.lane.number;
  if (join.role == wire::LaneRole::kUrgent) {
    return urgent_wanted_ && number == lanes_wanted_ + 1 && (urgent_ == nullptr || rejoining_);
  }
  return number >= 1 && number <= lanes_.size() && (lanes_[number - 1] == nullptr || rejoining_);
}

void Introductions::take_join(std::unique_ptr<RecordChannel> channel, const wire::Join& join) {
  Status fits;
  {
    MutexLock lock(mutex_);
    fits = check_join(channel->channel(), join);
    if (fits) channel->set_hasher(hasher_);
  }
  if (!fits) return refuse(*channel, std::move(fits).error());
  if (!channel->send(wire::Joined{join.lane}, kReplyPatience)) return;
  {
    MutexLock lock(mutex_);
    if (!check_join(channel->channel(), join)) return;
    if (join.role == wire::LaneRole::kUrgent) {
      urgent_ = std::move(channel);
    } else {
      if (lanes_[join.lane.number - 1] == nullptr) ++joined_;
      lanes_[join.lane.number - 1] = std::move(channel);
    }
    changed_.notify_all();
  }
  context_.on_lane();
}

void Introductions::take_ask(std::unique_ptr<RecordChannel> channel, const wire::Ask& ask) {
  bool ours = false;
  Status proven;
  {
    MutexLock lock(mutex_);
    ours = expecting_ && ask.session == session_;
    if (ours && !equal(ask.proof, secret_)) {
      proven = make_error(ErrorCode::kUnauthorized,
                          "the question does not prove that it is the session's");
    } else if (ours) {
      proven = check_peer(channel->channel());
    }
    if (ours && proven) {
      channel->set_hasher(hasher_);
      asking_ = std::move(channel);
      changed_.notify_all();
    }
  }
  if (!proven) return refuse(*channel, std::move(proven).error());
  if (ours) return context_.on_news();
  Status sent = channel->send(context_.consult(ask.session), kReplyPatience);
  static_cast<void>(sent);
}

Status Introductions::check_resume(const Channel& channel, const wire::Resume& resume) {
  if (!expecting_ || resume.session != session_) {
    return make_error(ErrorCode::kNotFound, "the session to go on with is not here");
  }
  if (!equal(resume.proof, secret_)) {
    return make_error(ErrorCode::kUnauthorized,
                      "a source that comes back does not prove that it is the session's");
  }
  return check_peer(channel);
}

void Introductions::take_resume(std::unique_ptr<RecordChannel> channel,
                                const wire::Resume& resume) {
  Status fits;
  {
    MutexLock lock(mutex_);
    fits = check_resume(channel->channel(), resume);
    if (fits) channel->set_hasher(hasher_);
  }
  if (!fits) return refuse(*channel, std::move(fits).error());
  // First, so that what it ends is not what comes of this connection.
  context_.on_resume();
  {
    MutexLock lock(mutex_);
    resuming_ = Resuming{std::move(channel), resume.round};
    changed_.notify_all();
  }
  context_.on_news();
}

bool Introductions::stopped() {
  MutexLock lock(mutex_);
  return stopping_;
}

bool Introductions::has_resuming() {
  MutexLock lock(mutex_);
  return resuming_.has_value();
}

std::optional<Introductions::Resuming> Introductions::take_resuming(SteadyClock::time_point until) {
  MutexLock lock(mutex_);
  while (!resuming_ && !stopping_) {
    if (!changed_.wait_until(mutex_, until)) break;
  }
  return take_resuming_now();
}

Introductions::Back Introductions::take_resuming_or_asking(SteadyClock::time_point until) {
  MutexLock lock(mutex_);
  while (!resuming_ && asking_ == nullptr && !stopping_) {
    if (!changed_.wait_until(mutex_, until)) break;
  }
  Back back;
  back.resuming = take_resuming_now();
  if (!back.resuming) back.asking = std::move(asking_);
  return back;
}

std::optional<Introductions::Resuming> Introductions::take_resuming_now() {
  if (!resuming_) return std::nullopt;
  // Lanes that joined for an earlier RESUME are gone with it.
  lanes_.clear();
  lanes_.resize(lanes_wanted_);
  joined_ = 0;
  urgent_.reset();
  rejoining_ = true;
  return std::exchange(resuming_, std::nullopt);
}

Result<Introductions::Arrival> Introductions::wait_for_hello() {
  MutexLock lock(mutex_);
  while (!arrival_ && !stopping_ && !accept_error_) changed_.wait(mutex_);
  if (arrival_) {
    Arrival arrival = std::move(*arrival_);
    arrival_.reset();
    return arrival;
  }
  if (stopping_) return make_error(ErrorCode::kCancelled, "receiving was cancelled");
  return *accept_error_;
}

void Introductions::expect(const wire::SessionId& session, const wire::JoinSecret& secret,
                           const wire::Hasher& hasher, std::uint16_t lanes, bool urgent) {
  MutexLock lock(mutex_);
  urgent_wanted_ = urgent;
  expecting_ = true;
  session_ = session;
  secret_ = secret;
  hasher_ = hasher;
  lanes_wanted_ = lanes;
  lanes_.resize(lanes);
}

Result<std::vector<std::unique_ptr<RecordChannel>>> Introductions::wait_for_lanes(
    nanoseconds timeout) {
  const auto until = SteadyClock::now() + timeout;
  MutexLock lock(mutex_);
  while (joined_ < lanes_.size() && !stopping_ && !resuming_) {
    if (!changed_.wait_until(mutex_, until)) break;
  }
  if (resuming_) {
    return make_error(ErrorCode::kLinkLost, "the source has come back on another connection");
  }
  if (joined_ == lanes_.size()) return std::move(lanes_);
  if (stopping_) return make_error(ErrorCode::kCancelled, "receiving was cancelled");
  return make_error(ErrorCode::kTimeout, std::to_string(joined_) + " of " +
                                             std::to_string(lanes_.size()) +
                                             " lanes joined the session in time")
      .advise("check that the source still runs and that all its connections reach this port");
}

std::unique_ptr<RecordChannel> Introductions::take_urgent(SteadyClock::time_point until) {
  MutexLock lock(mutex_);
  while (urgent_ == nullptr && !stopping_ && !resuming_) {
    if (!changed_.wait_until(mutex_, until)) break;
  }
  return resuming_ ? nullptr : std::move(urgent_);
}

std::unique_ptr<RecordChannel> Introductions::take_asking(SteadyClock::time_point until) {
  MutexLock lock(mutex_);
  while (asking_ == nullptr && !stopping_) {
    if (!changed_.wait_until(mutex_, until)) break;
  }
  return std::move(asking_);
}

}  // namespace migrate::session
