#include "tls_answers.hpp"

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/guarded.hpp"
#include "base/log.hpp"
#include "base/start_thread.hpp"
#include "transport/announced_session.hpp"
#include "transport/record_channel.hpp"

namespace migrate::tool {
namespace {

// More than that ask at one time only where somebody wants to be a nuisance.
constexpr std::size_t kTalksMax = 16;
// How long a peer may take to read its answer and go.
constexpr std::chrono::milliseconds kFarewell{2'000};

}  // namespace

struct TlsAnswers::Talk {
  std::unique_ptr<RecordChannel> channel;  // Goes under mutex_, once it is no longer needed.
  Error error;
  std::optional<wire::Answer> answer;
  std::atomic<bool> done{false};
  std::thread thread;
};

TlsAnswers::TlsAnswers(std::shared_ptr<TlsContext> context, std::chrono::milliseconds hello_timeout)
    : context_(std::move(context)), hello_timeout_(hello_timeout) {}

TlsAnswers::~TlsAnswers() {
  for (auto& talk : talks_) {
    MutexLock lock(mutex_);
    if (talk->channel != nullptr) talk->channel->channel().interrupt();
  }
  for (auto& talk : talks_) talk->thread.join();
}

void TlsAnswers::reap() {
  std::erase_if(talks_, [](const auto& talk) {
    if (!talk->done) return false;
    talk->thread.join();
    return true;
  });
}

void TlsAnswers::give(Fd connection, Error error, std::optional<wire::Answer> answer) {
  reap();
  if (talks_.size() >= kTalksMax) return;
  auto plain = make_socket_channel(connection.release());
  if (!plain) return;
  auto channel = make_tls_channel(*std::move(plain), context_);
  if (!channel) return;
  auto talk = std::make_unique<Talk>();
  talk->channel = std::make_unique<RecordChannel>(*std::move(channel));
  talk->error = std::move(error);
  talk->answer = answer;
  talks_.push_back(std::move(talk));
  Talk* raw = talks_.back().get();
  Status begun = start_thread(raw->thread, "tls-answer", [this, raw] {
    Status conversed = guarded([&]() -> Status {
      converse(*raw);
      return {};
    });
    if (!conversed) log_line(LogLevel::kWarning, conversed.error().message);
    // Now, not when somebody else comes: the peer waits for the end.
    std::unique_ptr<RecordChannel> over;
    {
      MutexLock lock(mutex_);
      over = std::move(raw->channel);
    }
    over.reset();
    raw->done = true;
  });
  if (begun) return;
  log_line(LogLevel::kWarning, "dropped a connection: " + begun.error().to_text());
  talks_.pop_back();
}

/// The answer is for an ASK of the session that the ClientHello named, and for nothing else.
Status TlsAnswers::check_question(const Talk& talk, const RecordChannel::Record& first) {
  if (first.header.type != wire::RecordType::kAsk || !talk.answer) return talk.error;
  const auto ask = wire::decode<wire::Ask>(first.body);
  if (!ask) return Error(ask.error()).on(Side::kTarget);
  Status announced = check_announced_session(talk.channel->channel(), ask->session);
  if (!announced) return std::move(announced).error().on(Side::kTarget);
  return {};
}

void TlsAnswers::converse(Talk& talk) {
  RecordChannel& channel = *talk.channel;
  const auto first = channel.receive(hello_timeout_);
  const std::string peer = channel.channel().peer();
  if (!first) {
    log_line(LogLevel::kWarning, "refused " + peer + ": " + first.error().to_text());
    return;
  }
  Status told;
  if (const Status good = check_question(talk, *first); !good) {
    log_line(LogLevel::kWarning, "refused " + peer + ": " + good.error().to_text());
    told = channel.send(wire::ErrorRecord{good.error()}, kFarewell);
  } else {
    told = channel.send(*talk.answer, kFarewell);
  }
  // The peer closes when it has read that.
  if (told) static_cast<void>(channel.receive(kFarewell));
}

}  // namespace migrate::tool
