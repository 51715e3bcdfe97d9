// The pinned names of the public enumerations.
#include "migrate/channel.hpp"
#include "migrate/guest.hpp"
#include "migrate/options.hpp"
#include "migrate/progress.hpp"
#include "migrate/restore.hpp"

namespace migrate {

std::string_view to_string(Strategy strategy) {
  switch (strategy) {
    case Strategy::kAuto:
      return "auto";
    case Strategy::kStopCopy:
      return "stop-copy";
    case Strategy::kPrecopy:
      return "precopy";
    case Strategy::kPostcopy:
      return "postcopy";
    case Strategy::kHybrid:
      return "hybrid";
  }
  return "unknown";
}

std::string_view to_string(VerifyMode mode) {
  switch (mode) {
    case VerifyMode::kDigest:
      return "digest";
    case VerifyMode::kFull:
      return "full";
  }
  return "unknown";
}

std::string_view to_string(PushPattern pattern) {
  switch (pattern) {
    case PushPattern::kBubble:
      return "bubble";
    case PushPattern::kAddress:
      return "address";
  }
  return "unknown";
}

std::string_view to_string(SocketIo io) {
  switch (io) {
    case SocketIo::kAuto:
      return "auto";
    case SocketIo::kPoll:
      return "poll";
    case SocketIo::kUring:
      return "uring";
  }
  return "unknown";
}

std::string_view to_string(Outcome outcome) {
  switch (outcome) {
    case Outcome::kDone:
      return "done";
    case Outcome::kFailed:
      return "failed";
    case Outcome::kRefused:
      return "refused";
    case Outcome::kCancelled:
      return "cancelled";
    case Outcome::kUncertain:
      return "uncertain";
    case Outcome::kLost:
      return "lost";
  }
  return "unknown";
}

std::string_view to_string(GuestKind kind) {
  switch (kind) {
    case GuestKind::kVm:
      return "vm";
    case GuestKind::kContainer:
      return "container";
  }
  return "unknown";
}

std::string_view to_string(RunState state) {
  switch (state) {
    case RunState::kRunning:
      return "running";
    case RunState::kPaused:
      return "paused";
  }
  return "unknown";
}

std::string to_string(const CompressionChoice& choice) {
  switch (choice.mode) {
    case CompressionChoice::Mode::kNone:
      return "none";
    case CompressionChoice::Mode::kAuto:
      return "auto";
    case CompressionChoice::Mode::kZstd:
      break;
  }
  return "zstd:" + std::to_string(choice.level);
}

std::string_view to_string(RestoreMode mode) {
  switch (mode) {
    case RestoreMode::kEager:
      return "eager";
    case RestoreMode::kLazy:
      return "lazy";
    case RestoreMode::kMapped:
      return "mapped";
  }
  return "unknown";
}

}  // namespace migrate
