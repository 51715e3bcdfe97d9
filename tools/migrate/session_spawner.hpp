// SessionSpawner: gives each new session a process of its own, this same program.
#pragma once

#include <list>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "command.hpp"
#include "receive_session.hpp"
#include "session_listener.hpp"

namespace migrate::tool {

/// What the listener tells a session's process, by options that help does not show.
struct SessionProcess {
  std::string session;     ///< The id; empty in any other process.
  int connection_fd = -1;  ///< The connection that began the session.
  int arriving_fd = -1;    ///< A pipe: closed once the session has ended.
  std::string address;     ///< What the listener listens on.
};
/// The option that says it is one.
CLI::Option* add_session_process_options(CLI::App& command, SessionProcess& process);

/// The options of `recv` that a session's process gets too.
[[nodiscard]] std::vector<std::string> session_arguments(const GlobalOptions& global,
                                                         const ReceiveOptions& options);

class SessionSpawner final : public SessionStarter {
 public:
  /// `address`: what the listener listens on.
  SessionSpawner(std::vector<std::string> arguments, std::string address)
      : arguments_(std::move(arguments)), address_(std::move(address)) {}

  Status start(const wire::SessionId& session, Fd connection, const std::string& peer) override;

 private:
  void forget_ended();

  const std::vector<std::string> arguments_;
  const std::string address_;
  std::list<Fd> arriving_;  // Reading ends of the pipes of sessions that have not ended.
};

}  // namespace migrate::tool
