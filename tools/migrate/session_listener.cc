#include "session_listener.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/log.hpp"
#include "connection_passing.hpp"
#include "session/host_identity.hpp"
#include "session/journal.hpp"
#include "transport/listen_on.hpp"
#include "transport/socket_address.hpp"
#include "transport/tls_client_hello.hpp"
#include "transport/tls_errors.hpp"
#include "wire/messages.hpp"

namespace migrate::tool {
namespace {

using std::chrono::milliseconds;
using SteadyClock = std::chrono::steady_clock;

// Connections that have not introduced themselves; a session brings 65 at most. The kernel keeps
// the others waiting.
constexpr std::size_t kPendingMax = 128;
// Where the session id stands, docs/wire-format.md: HELLO has the magic, both versions and the
// features before it.
constexpr std::size_t kHelloSessionAt = wire::kRecordHeaderBytes + 8 + 2 + 2 + 8;
constexpr std::size_t kOtherSessionAt = wire::kRecordHeaderBytes;
constexpr std::size_t kSessionBytes = sizeof(wire::SessionId::bytes);
constexpr std::size_t kPeekMax = 128;
// How long a refused peer may take to read why.
constexpr milliseconds kFarewell{2'000};
constexpr milliseconds kRetryPause{10};

/// Sends what fits at once: a record of some hundred bytes on a fresh connection always does.
template <typename Message>
void send_once(int socket, const Message& message) {
  std::vector<std::byte> bytes;
  if (!wire::encode_record(message, 0, wire::Hasher(), bytes)) return;
  [[maybe_unused]] const auto sent =
      ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  ::shutdown(socket, SHUT_WR);
}

wire::Answer to_wire(const session::Answer& answer) {
  wire::Answer message;
  // The machine's word for a start that was taken back; to a peer it is a guest that never ran.
  const auto state = answer.state == session::RecordState::kWithdrawn
                         ? session::RecordState::kDiscarded
                         : answer.state;
  message.state = static_cast<wire::JournalState>(state);
  message.attempt = answer.attempt;
  message.boot = answer.boot;
  message.process_lives = answer.process_lives;
  return message;
}

/// At most this many bytes of what has come, left where they are.
std::size_t peek(int socket, std::span<std::byte> into) {
  const auto got = ::recv(socket, into.data(), into.size(), MSG_PEEK | MSG_DONTWAIT);
  return got > 0 ? static_cast<std::size_t>(got) : 0;
}

/// poll() wakes only when that many bytes are there, or the peer has gone. False where the kernel
/// cannot: a UNIX socket's poll() wakes for any.
bool set_low_water(int socket, std::size_t bytes) {
  const int low = static_cast<int>(bytes);
  int domain = AF_UNIX;
  socklen_t size = sizeof domain;
  return ::getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain != AF_UNIX &&
         ::setsockopt(socket, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low) == 0;
}

}  // namespace

Result<FirstRecord> read_first_record(std::span<const std::byte> bytes) {
  using Kind = FirstRecord::Kind;
  if (bytes.size() < wire::kRecordHeaderBytes) {
    return FirstRecord{Kind::kIncomplete, wire::kRecordHeaderBytes, {}};
  }
  MIGRATE_ASSIGN(const wire::RecordHeader header,
                 wire::decode_header(bytes.first<wire::kRecordHeaderBytes>(), 0));
  FirstRecord record;
  std::size_t session_at = kOtherSessionAt;
  switch (header.type) {
    case wire::RecordType::kHello:
      record.kind = Kind::kHello;
      session_at = kHelloSessionAt;
      break;
    case wire::RecordType::kJoin:
      record.kind = Kind::kJoin;
      break;
    case wire::RecordType::kAsk:
      record.kind = Kind::kAsk;
      break;
    case wire::RecordType::kResume:
      record.kind = Kind::kResume;
      break;
    default:
      return make_error(ErrorCode::kProtocol, "a connection began with " +
                                                  std::string(to_string(header.type)) +
                                                  ", not with HELLO, JOIN, ASK or RESUME");
  }
  const std::size_t needed = session_at + kSessionBytes;
  if (wire::kRecordHeaderBytes + header.length < needed) {
    return make_error(ErrorCode::kProtocol, std::string(to_string(header.type)) +
                                                " is too short to name a session, at byte " +
                                                std::to_string(wire::kRecordHeaderBytes));
  }
  if (bytes.size() < needed) return FirstRecord{Kind::kIncomplete, needed, {}};
  std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(session_at), kSessionBytes,
              record.session.bytes.begin());
  return record;
}

SessionListener::SessionListener(ListeningSocket listening, RuntimeDir folder,
                                 milliseconds hello_timeout, std::shared_ptr<TlsContext> tls)
    : listening_(std::move(listening)),
      folder_(std::move(folder)),
      hello_timeout_(hello_timeout),
      tls_(std::move(tls)),
      tls_answers_(tls_, hello_timeout) {}

Result<std::unique_ptr<SessionListener>> SessionListener::open(const Endpoint& endpoint,
                                                               RuntimeDir folder,
                                                               milliseconds hello_timeout,
                                                               std::shared_ptr<TlsContext> tls) {
  MIGRATE_ASSIGN(auto listening, listen_on(endpoint, {}));
  return std::unique_ptr<SessionListener>(
      new SessionListener(std::move(listening), std::move(folder), hello_timeout, std::move(tls)));
}

void SessionListener::run(SessionStarter& starter, int wake) {
  std::vector<pollfd> waits;
  for (;;) {
    waits.assign({{wake, POLLIN, 0},
                  {pending_.size() < kPendingMax ? listening_.socket.get() : -1, POLLIN, 0}});
    auto next = SteadyTime::max();
    for (const Pending& pending : pending_) {
      // One that waits for its process is readable all the time: the timeout wakes it instead.
      const bool again = pending.retry || pending.paused;
      const short events = again ? 0 : POLLIN | POLLRDHUP;
      waits.push_back({pending.socket.get(), events, 0});
      const auto retry = SteadyClock::now() + kRetryPause;
      next = std::min(next, again ? std::min(retry, pending.deadline) : pending.deadline);
    }
    int timeout = -1;
    if (next != SteadyTime::max()) {
      const auto left = std::chrono::ceil<milliseconds>(next - SteadyClock::now()).count();
      timeout = static_cast<int>(std::clamp<std::int64_t>(left, 0, 3'600'000));
    }
    if (::poll(waits.data(), waits.size(), timeout) < 0 && errno != EINTR) return;
    if (waits[0].revents != 0) return;
    std::size_t index = 2;
    for (auto it = pending_.begin(); it != pending_.end(); ++index) {
      const short got = waits[index].revents;
      const bool due = it->retry || it->paused || it->deadline <= SteadyClock::now();
      const bool hung_up = (got & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
      const bool stays = (got == 0 && !due) || serve(*it, hung_up, starter);
      it = stays ? std::next(it) : pending_.erase(it);
    }
    if (waits[1].revents != 0) accept_all();
  }
}

void SessionListener::accept_all() {
  while (pending_.size() < kPendingMax) {
    Fd socket(::accept4(listening_.socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket) return;
    pending_.push_back({std::move(socket), SteadyClock::now() + hello_timeout_});
    // Nothing has been looked at yet: any byte may wake it.
    set_low_water(pending_.back().socket.get(), tls_ ? 1 : wire::kRecordHeaderBytes);
  }
}

/// For a connection that has been looked at and has less than that. 1: for any.
void SessionListener::wait_for_bytes(Pending& pending, std::size_t bytes) const {
  pending.paused = !set_low_water(pending.socket.get(), bytes) && bytes > 1;
}

std::string SessionListener::name_of(const Pending& pending) const {
  const std::string peer = peer_text(pending.socket.get());
  return peer.empty() ? "a client of " + address() : peer;
}

bool SessionListener::serve(Pending& pending, bool hung_up, SessionStarter& starter) {
  const bool late = pending.deadline <= SteadyClock::now();
  if (pending.leaving) return !late && drain(pending);
  if (tls_) return serve_tls(pending, hung_up, late, starter);
  std::array<std::byte, kPeekMax> bytes;
  const std::size_t got = peek(pending.socket.get(), bytes);
  const auto record = read_first_record(std::span(bytes).first(got));
  if (!record) return refuse(pending, record.error());
  if (record->kind == FirstRecord::Kind::kIncomplete) {
    if (hung_up) return false;
    if (late) {
      return refuse(pending, make_error(ErrorCode::kTimeout,
                                        "the connection did not introduce itself in time"));
    }
    wait_for_bytes(pending, record->bytes_needed);
    return true;
  }
  if (pending.retry && late) {
    return refuse(
        pending, make_error(ErrorCode::kBusy, "the session's process does not take its connections")
                     .advise("try again"));
  }
  return route(pending, *record, starter);
}

bool SessionListener::serve_tls(Pending& pending, bool hung_up, bool late,
                                SessionStarter& starter) {
  using Kind = TlsClientHello::Kind;
  std::array<std::byte, kClientHelloMax> bytes;
  const std::size_t got = peek(pending.socket.get(), bytes);
  const TlsClientHello hello = read_client_hello(std::span(bytes).first(got));
  const std::string peer = name_of(pending);
  if (hello.kind == Kind::kNotTls) {
    return refuse(pending, plain_peer_error(TlsRole::kAccept, peer));
  }
  if (hello.kind == Kind::kIncomplete) {
    if (!hung_up && !late) {
      wait_for_bytes(pending, got + 1);
      return true;
    }
    log_line(LogLevel::kWarning, "refused " + peer + ": its TLS handshake did not begin in time");
    return false;
  }
  const auto session = wire::parse_session_id(hello.session);
  if (!session) {
    tls_answers_.give(std::move(pending.socket),
                      make_error(ErrorCode::kProtocol, "the connection names no session")
                          .advise("use the same version of migrate on both hosts"),
                      std::nullopt);
    return false;
  }
  if (pending.retry && late) {
    tls_answers_.give(
        std::move(pending.socket),
        make_error(ErrorCode::kBusy, "the session's process does not take its connections")
            .advise("try again"),
        std::nullopt);
    return false;
  }
  return route_tls(pending, *session, starter);
}

/// The session is what a stranger says. Whoever gets the connection makes sure of the rest.
bool SessionListener::route_tls(Pending& pending, const wire::SessionId& session,
                                SessionStarter& starter) {
  wait_for_bytes(pending, 1);
  const PassResult passed = pass_connection(lanes_path(folder_, session), pending.socket.get());
  if (passed == PassResult::kPassed) return false;
  pending.retry = passed == PassResult::kFull;
  if (pending.retry) return true;
  const auto refuse_with = [&](Error error, std::optional<wire::Answer> answer) {
    tls_answers_.give(std::move(pending.socket), std::move(error).on(Side::kTarget), answer);
    return false;
  };
  if (passed == PassResult::kFailed) {
    return refuse_with(make_error(ErrorCode::kIo, "the connection cannot be handed over"), {});
  }
  const auto consulted =
      session::consult_journal(folder_.path().string(), session, session::this_boot());
  if (consulted.problem) log_line(LogLevel::kWarning, consulted.problem->to_text());
  pending.retry = consulted.hand_over;
  if (pending.retry) return true;
  if (consulted.problem || consulted.answer.state != session::RecordState::kUnknown) {
    return refuse_with(make_error(ErrorCode::kNotFound,
                                  "session " + wire::to_text(session) + " has ended on this host"),
                       to_wire(consulted.answer));
  }
  // Nobody knows it: it begins, or its process has to say that it does not.
  Fd copy(::fcntl(pending.socket.get(), F_DUPFD_CLOEXEC, 0));
  const std::string peer = name_of(pending);
  const Status started = starter.start(session, std::move(copy), peer);
  return started ? false : refuse_with(started.error(), {});
}

bool SessionListener::route(Pending& pending, const FirstRecord& record, SessionStarter& starter) {
  wait_for_bytes(pending, 1);
  switch (pass_connection(lanes_path(folder_, record.session), pending.socket.get())) {
    case PassResult::kPassed:
      return false;
    case PassResult::kFull:
      pending.retry = true;
      return true;
    case PassResult::kFailed:
      return refuse(pending, make_error(ErrorCode::kIo, "the connection cannot be handed over"));
    case PassResult::kNobody:
      break;
  }
  if (record.kind == FirstRecord::Kind::kAsk) return route_ask(pending, record.session);
  if (record.kind != FirstRecord::Kind::kHello) {
    return refuse(pending,
                  make_error(ErrorCode::kNotFound, "no session " + wire::to_text(record.session) +
                                                       " is under way on this host"));
  }
  // A copy goes to the session, so that a refusal can still be told here.
  Fd copy(::fcntl(pending.socket.get(), F_DUPFD_CLOEXEC, 0));
  const std::string peer = name_of(pending);
  const Status started = starter.start(record.session, std::move(copy), peer);
  return started ? false : refuse(pending, started.error());
}

/// The session's process is gone, or has closed its ears: the journal answers.
bool SessionListener::route_ask(Pending& pending, const wire::SessionId& session) {
  const auto consulted =
      session::consult_journal(folder_.path().string(), session, session::this_boot());
  if (consulted.problem) log_line(LogLevel::kWarning, consulted.problem->to_text());
  if (consulted.hand_over) {
    pending.retry = true;
    return true;
  }
  std::array<std::byte, kPeekMax> bytes;
  const std::size_t got = peek(pending.socket.get(), bytes);
  const auto header =
      wire::decode_header(std::span<const std::byte>(bytes).first<wire::kRecordHeaderBytes>(), 0);
  if (!header) return refuse(pending, header.error());
  const std::size_t whole = wire::kRecordHeaderBytes + header->length;
  if (whole > kPeekMax) {
    return refuse(pending, make_error(ErrorCode::kProtocol, "ASK is too long"));
  }
  if (got < whole) {
    wait_for_bytes(pending, whole);
    return true;
  }
  const auto body =
      std::span<const std::byte>(bytes).subspan(wire::kRecordHeaderBytes, header->length);
  if (const Status good = wire::check_record(*header, body, wire::Hasher()); !good) {
    return refuse(pending, good.error());
  }
  if (const auto ask = wire::decode<wire::Ask>(body); !ask) return refuse(pending, ask.error());
  log_line(LogLevel::kInfo, "asked for session " + wire::to_text(session) + ": " +
                                std::string(to_string(consulted.answer.state)));
  send_once(pending.socket.get(), to_wire(consulted.answer));
  pending.leaving = true;
  pending.deadline = SteadyClock::now() + kFarewell;
  return true;
}

bool SessionListener::refuse(Pending& pending, Error error) {
  log_line(LogLevel::kWarning, "refused " + name_of(pending) + ": " + error.message);
  error.side = Side::kTarget;
  send_once(pending.socket.get(), wire::ErrorRecord{std::move(error)});
  pending.leaving = true;
  pending.retry = false;
  pending.deadline = SteadyClock::now() + kFarewell;
  wait_for_bytes(pending, 1);
  return true;
}

/// Closing with bytes unread would reset the connection, and the peer would never read why.
bool SessionListener::drain(Pending& pending) {
  std::array<std::byte, 16384> bytes;
  const auto got = ::recv(pending.socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
  return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

}  // namespace migrate::tool
