// Handing accepted connections from a listener to the process of the session they belong to.
//
// The session's process binds a datagram socket, <runtime folder>/<session>.lanes, and any listener
// of this host sends it descriptors: one that was started later, too.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/event_fd.hpp"
#include "base/fd.hpp"
#include "migrate/channel.hpp"
#include "runtime_dir.hpp"
#include "wire/ids.hpp"

namespace migrate::tool {

[[nodiscard]] std::filesystem::path lanes_path(const RuntimeDir& folder,
                                               const wire::SessionId& session);

enum class PassResult : std::uint8_t {
  kPassed,
  kNobody,  ///< No process has this session; a socket left behind by a dead one is removed.
  kFull,    ///< It has, and is slow to take them: try again.
  kFailed,
};
/// Does not wait. The caller still owns, and closes, its copy of `connection`.
[[nodiscard]] PassResult pass_connection(const std::filesystem::path& lanes, int connection);

/// The receiving end, an Acceptor for Incoming.
class PassedAcceptor final : public Acceptor {
 public:
  /// `address`: what the listener listens on.
  static Result<std::unique_ptr<PassedAcceptor>> open(const std::filesystem::path& lanes,
                                                      std::string address,
                                                      const SocketOptions& sockets = {});
  ~PassedAcceptor() override;

  Result<std::unique_ptr<Channel>> accept(std::chrono::nanoseconds timeout) override;
  void interrupt() noexcept override { wake_.set(); }
  std::string address() const override { return address_; }

 private:
  PassedAcceptor(std::filesystem::path lanes, Fd socket, EventFd wake, std::string address,
                 const SocketOptions& sockets);
  [[nodiscard]] Fd take();

  const std::filesystem::path lanes_;
  Fd socket_;
  EventFd wake_;
  const std::string address_;
  const SocketOptions sockets_;
};

}  // namespace migrate::tool
