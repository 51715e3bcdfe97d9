// SessionListener: `recv` without --once. Looks at the first record of each connection, without
// taking it, and brings the connection to where it belongs: a new session, the process of a session
// under way, or the journal. Of a TLS connection it sees only the ClientHello, which names
// the session: the handshake is the business of the process that the connection is brought to.
#pragma once

#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "migrate/endpoint.hpp"
#include "migrate/result.hpp"
#include "runtime_dir.hpp"
#include "tls_answers.hpp"
#include "transport/listening_socket.hpp"
#include "wire/ids.hpp"
#include "wire/record.hpp"

namespace migrate::tool {

/// What a connection's first bytes say.
struct FirstRecord {
  enum class Kind : std::uint8_t { kIncomplete, kHello, kJoin, kAsk, kResume };
  Kind kind = Kind::kIncomplete;
  std::size_t bytes_needed = 0;  ///< Of kIncomplete: how many to wait for.
  wire::SessionId session;
};
/// Errors: as wire::decode_header, and kProtocol for a record that introduces nobody.
[[nodiscard]] Result<FirstRecord> read_first_record(std::span<const std::byte> bytes);

/// Begins new sessions. Called from run()'s thread.
class SessionStarter {
 public:
  virtual ~SessionStarter() = default;
  /// An error is told to the peer.
  virtual Status start(const wire::SessionId& session, Fd connection, const std::string& peer) = 0;
};

class SessionListener {
 public:
  /// Port 0 picks one. kAddressInUse when it is taken. An inherited descriptor is copied.
  static Result<std::unique_ptr<SessionListener>> open(const Endpoint& endpoint, RuntimeDir folder,
                                                       std::chrono::milliseconds hello_timeout,
                                                       std::shared_ptr<TlsContext> tls = nullptr);

  [[nodiscard]] const std::string& address() const { return listening_.address; }
  /// Serves connections until `wake` is readable (poll).
  void run(SessionStarter& starter, int wake);

 private:
  using SteadyTime = std::chrono::steady_clock::time_point;
  struct Pending {
    Fd socket;
    SteadyTime deadline;
    bool leaving = false;  ///< Told off; kept open until it has read why.
    bool retry = false;    ///< Known, but its process is slow to take it.
    bool paused = false;   ///< poll() does not know how many bytes are waited for: looked at again.
  };

  SessionListener(ListeningSocket listening, RuntimeDir folder,
                  std::chrono::milliseconds hello_timeout, std::shared_ptr<TlsContext> tls);

  void accept_all();
  /// False once the connection needs no more of this listener.
  bool serve(Pending& pending, bool hung_up, SessionStarter& starter);
  bool serve_tls(Pending& pending, bool hung_up, bool late, SessionStarter& starter);
  bool route_tls(Pending& pending, const wire::SessionId& session, SessionStarter& starter);
  bool route(Pending& pending, const FirstRecord& record, SessionStarter& starter);
  bool route_ask(Pending& pending, const wire::SessionId& session);
  void wait_for_bytes(Pending& pending, std::size_t bytes) const;
  [[nodiscard]] std::string name_of(const Pending& pending) const;
  bool refuse(Pending& pending, Error error);
  static bool drain(Pending& pending);

  const ListeningSocket listening_;
  const RuntimeDir folder_;
  const std::chrono::milliseconds hello_timeout_;
  const std::shared_ptr<TlsContext> tls_;  ///< nullptr: plain connections, only.
  TlsAnswers tls_answers_;
  std::list<Pending> pending_;
};

}  // namespace migrate::tool
