#include "ask_responder.hpp"

#include "base/log.hpp"
#include "base/start_thread.hpp"
#include "session/host_identity.hpp"
#include "transport/announced_session.hpp"
#include "transport/record_channel.hpp"

namespace migrate::tool {
namespace {

// One connection at a time, so each gets little: an asking source speaks at once.
constexpr std::chrono::seconds kPatience{2};
constexpr std::chrono::milliseconds kAcceptPause{100};

wire::Answer started(std::uint32_t attempt) {
  wire::Answer answer;
  answer.state = wire::JournalState::kStarted;
  answer.attempt = attempt;
  answer.boot = session::this_boot();
  answer.process_lives = true;
  return answer;
}

}  // namespace

AskResponder::AskResponder(std::unique_ptr<Acceptor> acceptor, const wire::SessionId& session,
                           std::uint32_t attempt)
    : acceptor_(std::move(acceptor)), session_(session), answer_(started(attempt)) {
  Status begun = start_thread(thread_, "ask-responder", [this] { run(); });
  if (!begun)
    log_line(LogLevel::kWarning, "late questions go unanswered: " + begun.error().to_text());
}

AskResponder::~AskResponder() {
  acceptor_->interrupt();
  if (thread_.joinable()) thread_.join();
}

void AskResponder::run() {
  for (;;) {
    auto channel = acceptor_->accept(std::chrono::hours(1));
    if (channel) {
      answer(*std::move(channel));
      continue;
    }
    if (channel.error().code == ErrorCode::kCancelled) return;
    // Out of descriptors, say: it may pass.
    if (channel.error().code != ErrorCode::kTimeout) std::this_thread::sleep_for(kAcceptPause);
  }
}

void AskResponder::answer(std::unique_ptr<Channel> channel) {
  RecordChannel records(std::move(channel));
  const auto ask = records.expect<wire::Ask>(kPatience);
  Status told;
  const Status announced =
      ask ? check_announced_session(records.channel(), ask->session) : Status();
  if (!announced) {
    told = records.send(wire::ErrorRecord{Error(announced.error()).on(Side::kTarget)}, kPatience);
  } else if (ask && ask->session == session_) {
    told = records.send(answer_, kPatience);
  } else {
    Error error =
        ask ? make_error(ErrorCode::kNotFound, "another session ended here") : ask.error();
    told = records.send(wire::ErrorRecord{std::move(error).on(Side::kTarget)}, kPatience);
  }
  // The peer closes when it has read that; what it says before (RELEASED) changes nothing here.
  if (told) static_cast<void>(records.receive(kPatience));
}

}  // namespace migrate::tool
