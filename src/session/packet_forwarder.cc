#include "session/packet_forwarder.hpp"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "base/guarded.hpp"
#include "base/log.hpp"
#include "wire/limits.hpp"

namespace migrate::session {
namespace {

// Between two looks at the cards. A frame waits half of it on average, and looking costs a system
// call a card.
constexpr std::chrono::milliseconds kPause{1};
// A turn's, so that the target's word is never behind more than this, and no more is taken than
// that before it has left: what waits in the card's own queue is in better hands.
constexpr std::size_t kTurnFrames = 64;
constexpr std::size_t kTurnBytes = std::size_t{256} << 10;
// Taken until STARTED, sent or not: half of what a card takes back (FrameBacklog).
constexpr std::size_t kKeptFrames = 512;
constexpr std::size_t kKeptBytes = std::size_t{1} << 20;
// Sent until STARTED: nobody reads them, and STARTED, which ends the downtime, is not to wait for a
// reader of more.
constexpr std::size_t kUnreadFrames = 128;
constexpr std::size_t kUnreadBytes = std::size_t{128} << 10;
// A send that has room does not wait, but must be told how long it may.
constexpr std::chrono::milliseconds kPatienceMin{1};

// FORWARD before its frame: card and length.
constexpr std::size_t kForwardHeadBytes = wire::kRecordHeaderBytes + 8;

void say_why(const char* what, const Error& error) {
  Status said = guarded([&]() -> Status {
    log_line(LogLevel::kInfo, what + error.to_text());
    return {};
  });
  static_cast<void>(said);
}

std::size_t room_for(std::size_t max, std::size_t used) { return max - std::min(max, used); }

}  // namespace

void PacketForwarder::run(RecordChannel& control, SteadyTime until) {
  Status done = guarded([&] { return forward(control, until, While::kTime); });
  if (done) return;
  stop();
  say_why("forwarding ends: ", done.error());
}

void PacketForwarder::run_once(RecordChannel& control, SteadyTime until) {
  Status done = guarded([&] { return forward(control, until, While::kSomeWait); });
  if (done) return;
  stop();
  say_why("forwarding ends: ", done.error());
}

Status PacketForwarder::forward(RecordChannel& control, SteadyTime until, While last) {
  while (active() && clock_.now() < until) {
    MIGRATE_TRY(take());
    const std::size_t waiting = taken_.size() - next_;
    MIGRATE_TRY(send_some(control, until));
    // As many as a turn may have: there are more, and what came while the guest stood has waited.
    const bool more = waiting == kTurnFrames && taken_.size() == next_;
    if (last == While::kSomeWait && !more) break;
    const nanoseconds left = std::max<nanoseconds>(until - clock_.now(), nanoseconds(0));
    if (control.has_news(more ? nanoseconds(0) : std::min<nanoseconds>(kPause, left))) break;
  }
  return {};
}

Status PacketForwarder::take() {
  std::size_t frames_max = room_for(kTurnFrames, taken_.size() - next_);
  std::size_t bytes_max = kTurnBytes;
  if (!started_) {
    frames_max = std::min(frames_max, room_for(kKeptFrames, taken_.size()));
    bytes_max = std::min(bytes_max, room_for(kKeptBytes, taken_bytes_));
  }
  if (frames_max == 0 || bytes_max == 0) return {};
  MIGRATE_ASSIGN(auto frames, source_->take_waiting(frames_max, bytes_max));
  for (GuestFrame& frame : frames) {
    const std::size_t bytes = frame.bytes.size();
    taken_.push_back(std::move(frame));
    taken_bytes_ += bytes;
  }
  return {};
}

Status PacketForwarder::send_some(RecordChannel& control, SteadyTime until) {
  for (std::size_t i = 0; i < kTurnFrames && next_ < taken_.size(); ++i) {
    const GuestFrame& frame = taken_[next_];
    if (frame.follows) {
      if (!may_send(control, frame.bytes.size())) return {};
      const auto patience = std::max<nanoseconds>(until - clock_.now(), kPatienceMin);
      MIGRATE_TRY(control.send(wire::Forward{frame.card, frame.bytes}, patience));
      ++counts_.frames;
      counts_.bytes += frame.bytes.size();
    }
    pass();
  }
  return {};
}

bool PacketForwarder::may_send(const RecordChannel& control, std::size_t bytes) const {
  if (!started_ && (counts_.frames == kUnreadFrames || counts_.bytes + bytes > kUnreadBytes)) {
    return false;
  }
  return control.channel().has_room(kForwardHeadBytes + bytes);
}

/// taken_[next_] is done with.
void PacketForwarder::pass() {
  if (!started_) {
    ++next_;
    return;
  }
  taken_bytes_ -= taken_.front().bytes.size();
  taken_.pop_front();
}

void PacketForwarder::started() {
  started_ = true;
  for (; next_ > 0; --next_) pass();
}

void PacketForwarder::stop() {
  active_ = false;
  for (; next_ < taken_.size(); ++next_) {
    if (taken_[next_].follows) ++counts_.dropped;
  }
}

void PacketForwarder::give_back() {
  stop();
  if (taken_.empty()) return;
  counts_ = {};
  Status given = guarded([&]() -> Status {
    source_->give_back({std::make_move_iterator(taken_.begin()),  //
                        std::make_move_iterator(taken_.end())});
    return {};
  });
  taken_.clear();
  if (!given) say_why("frames that came for the guest meanwhile are lost: ", given.error());
}

}  // namespace migrate::session
