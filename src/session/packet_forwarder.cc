#include "session/packet_forwarder.hpp"

#include <algorithm>
#include <utility>

#include "base/guarded.hpp"
#include "base/log.hpp"

namespace migrate::session {
namespace {

// Between two looks at the cards. A frame waits half of it on average, and looking costs a system
// call a card.
constexpr std::chrono::milliseconds kPause{1};
// A turn's, so that the target's word is never behind more than this.
constexpr std::size_t kTurnFrames = 64;
constexpr std::size_t kTurnBytes = std::size_t{256} << 10;
// Until STARTED nobody reads them, and they must fit what the link holds by itself: sending would
// wait for the target, and the target's STARTED is what ends the downtime.
constexpr std::size_t kUnreadFrames = 128;
constexpr std::size_t kUnreadBytes = std::size_t{128} << 10;

}  // namespace

void PacketForwarder::run(RecordChannel& control, SteadyTime until, nanoseconds idle_max) {
  while (active() && clock_.now() < until) {
    if (!turn(control, idle_max)) return stop();
    if (control.has_news(std::min<nanoseconds>(kPause, until - clock_.now()))) return;
  }
}

bool PacketForwarder::turn(RecordChannel& control, nanoseconds idle_max) {
  std::size_t frames_max = kTurnFrames;
  std::size_t bytes_max = kTurnBytes;
  if (!started_) {
    frames_max = std::min(frames_max, kUnreadFrames - std::min(kUnreadFrames, kept_.size()));
    bytes_max = kUnreadBytes - std::min(kUnreadBytes, kept_bytes_);
    if (frames_max == 0 || bytes_max == 0) return true;
  }
  std::vector<GuestFrame> frames;
  const std::uint64_t sent_before = counts_.frames;
  Status sent = guarded([&]() -> Status {
    MIGRATE_ASSIGN(frames, source_->take_waiting(frames_max, bytes_max));
    for (GuestFrame& frame : frames) {
      MIGRATE_TRY(control.send(wire::Forward{frame.card, frame.bytes}, idle_max));
      ++counts_.frames;
      counts_.bytes += frame.bytes.size();
    }
    return {};
  });
  counts_.dropped += frames.size() - (counts_.frames - sent_before);
  if (!started_) {
    for (GuestFrame& frame : frames) {
      kept_bytes_ += frame.bytes.size();
      kept_.push_back(std::move(frame));
    }
  }
  if (sent) return true;
  log_line(LogLevel::kInfo, "forwarding ends: " + sent.error().to_text());
  return false;
}

void PacketForwarder::started() {
  started_ = true;
  kept_.clear();
  kept_bytes_ = 0;
}

void PacketForwarder::give_back() {
  stop();
  if (kept_.empty()) return;
  counts_ = {};
  source_->give_back(std::exchange(kept_, {}));
}

}  // namespace migrate::session
